"""What a data set tells a training: its labels, its terms for cards, its errors.

Data sets themselves are read and written by `dtgan_lab.data`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dtgan_core.files import shown

if TYPE_CHECKING:
    from dtgan_core.config import Config

FLIPS: tuple[str, ...] = ("horizontal", "vertical")
_SHOWN_PER_KIND = 20


class DatasetError(ValueError):
    """A data set cannot be used as it is.

    `problems` lists every problem found, in order; the message shows the first few of each kind.
    """

    def __init__(self, headline: str, problems: Mapping[str, list[str]] | None = None) -> None:
        """Build the message from problems sorted by kind (kind -> lines)."""
        kinds = {kind: [shown(line) for line in lines] for kind, lines in (problems or {}).items()}
        self.problems: list[str] = [line for lines in kinds.values() for line in lines]
        told = [shown(line) for line in headline.split("\n")]
        for kind, lines in kinds.items():
            told += [f"- {line}" for line in lines[:_SHOWN_PER_KIND]]
            if len(lines) > _SHOWN_PER_KIND:
                told.append(f"- ... and {len(lines) - _SHOWN_PER_KIND} more of this kind ({kind})")
        super().__init__("\n".join(told))


def data_facts(dataset: Any) -> dict[str, Any]:
    """What a card says of the data: name, hash, licence, citation, how it was made."""
    info = dataset.info
    facts = {name: getattr(info, name) for name in ("licence", "citation", "command")}
    return {"name": info.name, "manifest_sha256": dataset.manifest_hash, **facts}


def config_for(
    dataset: Any,
    preset: str = "laptop",
    ablation: str | None = None,
    *,
    model: dict[str, Any] | None = None,
    **groups: dict[str, Any] | None,
) -> Config:
    """A configuration whose labels and channels are the data set's (see `config.make_config`).

    With one product there is nothing for D_BG to tell apart: L_BG is off (our reading 10).
    """
    from dtgan_core.config import make_config  # who writes a data set needs none

    info = dataset.info
    fields: dict[str, Any] = {
        "channels": info.channels,
        "defects": len(info.defects),
        "products": len(info.products),
        "anchor": info.defects.index(info.anchor),
        **(model or {}),
    }
    if len(info.products) == 1:
        fields["bg_classifier"] = False
    return make_config(preset, ablation, model=fields, **groups)
