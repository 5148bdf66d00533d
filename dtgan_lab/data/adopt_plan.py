"""From adopted pictures to a data set: copies out, small classes named, groups dealt, written."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from dtgan_core.dataset import DatasetError
from dtgan_core.files import shown
from dtgan_lab.data.adopt import SHARES, Adopted, Listing, Recipe
from dtgan_lab.data.archives import LeftOut
from dtgan_lab.data.dataset import MANIFEST_COLUMNS, MASKS_FOLDER, SPLITS, DatasetInfo
from dtgan_lab.data.layout import write_dataset
from dtgan_lab.data.tiles import connected_groups
from dtgan_lab.data.validation import SMALLEST_CLASS

_TRAIN = SPLITS[0]


@dataclass(frozen=True)
class Plan:
    """What will be written; `found` counts candidates, unusable ones and copies among them."""

    images: list[Adopted]
    found: dict[tuple[str, str], int]
    left_out: list[LeftOut]
    remarks: list[str]
    recipe: Recipe

    def table(self) -> str:
        """Pictures per product and defect: found, taken, groups, and images per split."""
        used = {*SHARES, *(item.split for item in self.images)}
        rows = []
        for (product, defect), found in self.found.items():
            cell = [item for item in self.images if item.cell == (product, defect)]
            row = {"product": product, "defect": defect, "found": found, "taken": len(cell)}
            row["groups"] = len({item.group for item in cell})
            splits = Counter(item.split for item in cell)
            rows.append(row | {split: splits[split] for split in SPLITS if split in used})
        return pd.DataFrame(rows).to_string(index=False)


def make_plan(pictures: Sequence[Adopted], listing: Listing, recipe: Recipe) -> Plan:
    """Take copies out, check that there is enough, and deal groups to the splits.

    Pictures that are the same file, the same pixels, or the same image once fitted are kept once;
    the groups of all copies become one. The same picture under two labels is left out altogether.
    DatasetError: no anchor, no defect, or too few images. A column split that tears a group apart
    or leaves nothing to train on is found by the check of the data set.
    """
    _find_groups(pictures)
    kept, copies = _without_copies(pictures)
    kept, few = _enough(kept, recipe)
    _deal(kept, recipe)
    found = Counter((item.product, item.defect) for item in listing.candidates)
    left_out = [*listing.left_out, *copies, *few]
    return Plan(kept, dict(sorted(found.items())), left_out, listing.remarks, recipe)


def _find_groups(pictures: Sequence[Adopted]) -> None:
    """Name the group of each picture after its first member; copies join their groups."""
    pairs: list[tuple[int, int, float]] = []
    first: dict[tuple[str, str], int] = {}
    for index, item in enumerate(pictures):
        keys = [("group", item.candidate.group)] if item.candidate.group else []
        # Where the user says the splits, a copy must not pull two of his groups together.
        keys += [] if item.candidate.split else [("same", item.same)]
        pairs += [(first.setdefault(key, index), index, 1.0) for key in keys]
    numbers = connected_groups(len(pictures), [pair for pair in pairs if pair[0] != pair[1]])
    names: dict[int, str] = {}
    for number, item in zip(numbers, pictures, strict=True):
        item.group = names.setdefault(number, shown(item.candidate.group or item.candidate.name))


def _without_copies(pictures: Sequence[Adopted]) -> tuple[list[Adopted], list[LeftOut]]:
    """The pictures that stay, and the copies that do not."""
    same: dict[str, list[Adopted]] = {}
    for item in pictures:
        same.setdefault(item.same, []).append(item)
    kept: list[Adopted] = []
    left_out: list[LeftOut] = []
    for copies in same.values():
        first, *others = copies
        cells = {"/".join(item.cell) for item in copies}
        if len(cells) > 1:
            reason = f"the same picture stands under {', '.join(sorted(cells))}"
            reason += "; delete the wrong ones"
            left_out += [LeftOut(item.name, "contradiction", reason) for item in copies]
            continue
        kept.append(first)
        left_out += [
            LeftOut(item.name, "copy", f"{_sameness(first, item)} as {first.name}")
            for item in others
        ]
    return kept, left_out


def _sameness(first: Adopted, other: Adopted) -> str:
    if first.content == other.content:
        return "the same bytes"
    if first.candidate.picture or first.pixels == other.pixels:
        return "the same pixels"
    return "the same image at the written size"


def _of_defects(images: Sequence[Adopted], *first: str) -> dict[str, list[Adopted]]:
    """Images by defect, in their order; `first` come first, also without images."""
    members: dict[str, list[Adopted]] = {name: [] for name in first}
    for item in images:
        members.setdefault(item.cell[1], []).append(item)
    return members


def _enough(kept: list[Adopted], recipe: Recipe) -> tuple[list[Adopted], list[LeftOut]]:
    """Refuse or leave out defects that cannot be learned."""
    members = _of_defects(kept, recipe.anchor)
    few = {name: len(found) for name, found in members.items() if len(found) < SMALLEST_CLASS}
    alone = len(members) - len(few) < 2
    if recipe.anchor in few or alone or (few and not recipe.allow_few):
        counts = ", ".join(f"{len(found)} of {name}" for name, found in members.items())
        raise DatasetError(
            f"found different images: {counts}; expected at least {SMALLEST_CLASS} of the anchor "
            f"{recipe.anchor!r} and of each other defect, one at least: training compares two of "
            "them; add images, or leave small defects out with --allow-few"
        )
    left_out = [
        LeftOut(item.name, "too few", f"only {count} of {name}")
        for name, count in few.items()
        for item in members[name]
    ]
    return [item for item in kept if item.cell[1] not in few], left_out


def _deal(kept: list[Adopted], recipe: Recipe) -> None:
    """Give each group its split: as the source says, or dealt."""
    given = {item.group: item.candidate.split for item in kept if item.candidate.split}
    cells: dict[str, list[str]] = {}
    for item in kept:
        if item.group not in given:
            cells.setdefault(item.group, []).append("/".join(item.cell))
    dealt = recipe.deal(cells, recipe.seed)
    splits = dealt | given if given else _topped_up(dealt, _of_defects(kept))
    for item in kept:
        item.split = item.candidate.split or splits[item.group]


def _topped_up(dealt: dict[str, str], members: dict[str, list[Adopted]]) -> dict[str, str]:
    """Give held-out groups of a defect back to training until it has enough."""
    splits = dict(dealt)
    for found in members.values():
        for item in sorted(found, key=lambda one: SPLITS.index(dealt[one.group])):  # val, test
            if sum(splits[one.group] == _TRAIN for one in found) >= SMALLEST_CLASS:
                break
            splits[item.group] = _TRAIN
    return splits


def write_plan(plan: Plan, folder: Path) -> None:
    """Move what `adopt` spooled to its place in `folder`, on one disk; the manifest is last."""
    recipe, rows = plan.recipe, []
    for item in plan.images:
        mask = "" if item.mask is None else f"{MASKS_FOLDER}/{item.path}"
        if item.mask is not None:
            _move(item.mask, folder / mask)
        _move(item.png, folder / item.path)
        row = dict.fromkeys(MANIFEST_COLUMNS, "") | {"path": item.path, "mask": mask}
        row |= dict(zip(("product", "defect"), item.cell, strict=True))
        row |= {name: getattr(item, name) for name in ("split", "group", "sha256")}
        rows.append(row | {"seed": item.candidate.seed, "source": item.name})
    products = tuple(sorted({item.cell[0] for item in plan.images}))
    texts = ("name", "anchor", "licence", "citation", "source", "command", "channels")
    info = DatasetInfo(
        **{name: getattr(recipe, name) for name in texts},
        products=products,
        defects=(recipe.anchor, *sorted({i.cell[1] for i in plan.images} - {recipe.anchor})),
        image_size=(recipe.size, recipe.size),
        flips=dict.fromkeys(products, recipe.flips),
    )
    write_dataset(folder, pd.DataFrame(rows, columns=list(MANIFEST_COLUMNS)), info)


def _move(spooled: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(spooled, target)
