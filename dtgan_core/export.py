"""Writing many synthetic defects to a folder, with a manifest that says how each was made.

OUT/images/000000.png ...              the synthetic images
OUT/approximate_masks/000000.png ...   where each differs from itself without a defect
OUT/manifest.csv                       one row an image, written last
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from dtgan_core.data.images import to_png
from dtgan_core.data.store import step_generator
from dtgan_core.distributed import Workers, gather, wait
from dtgan_core.files import write_atomic
from dtgan_core.synthesis import Synthesizer, approximate_masks, to_uint8

EXPORT_COLUMNS = (
    "path",
    "approximate_mask",
    "background",
    "defect",
    "guidance",
    "reference",
    "seed",
    "index",
    "checkpoint_sha256",
)


class Shuffle:
    """An endless, balanced draw: every round takes each of `count` items once, in a new order.

    The item of an index is a function of (seed, name, index) alone, so workers agree on it.
    """

    def __init__(self, count: int, seed: int, name: str) -> None:
        self.count = count

        @lru_cache(maxsize=4)
        def order(number: int) -> list[int]:
            return torch.randperm(
                count, generator=step_generator(f"{seed}/{name}", number)
            ).tolist()

        self._order = order

    def __getitem__(self, index: int) -> int:
        return self._order(index // self.count)[index % self.count]


def generate(
    synth: Synthesizer,
    backgrounds: list[Path],
    defect: str,
    count: int,
    seed: int,
    out: Path,
    references: list[Path] | None = None,
    batch_size: int = 32,
    progress: bool = True,
    workers: Workers | None = None,
) -> pd.DataFrame:
    """Put `count` defects onto backgrounds and write images, approximate masks and a manifest.

    The image of an index depends on the checkpoint, the seed, the backgrounds and the references,
    and not on the batch size or on how many processes share the work.

    Args:
        synth: the model.
        backgrounds: defect-free images, each used in turn in a random order.
        defect: what to put onto them.
        count: images to make.
        seed: of latents and of the order of backgrounds and references.
        out: folder to write; must be new or empty.
        references: images to take the defect and its style from; None draws latents.
        batch_size: images computed together.
        progress: show a bar.
        workers: this process among those that torchrun started; each makes every `world`-th image.

    Returns:
        The manifest, with the columns `EXPORT_COLUMNS`.

    Raises:
        ValueError: `out` holds something, `count` is not positive, the model has no such defect.
        ImageError: a background or reference cannot be read.
    """
    if count < 1:
        raise ValueError(f"count is {count}; expected at least 1")
    if batch_size < 1:
        raise ValueError(f"batch size is {batch_size}; expected at least 1")
    if not backgrounds:
        raise ValueError("found no background; expected at least one image file")
    synth.label(defect, 1)
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out}: is not empty; choose another --out, or remove it first")
    workers = workers or Workers()
    wait(workers)  # everybody has looked at `out` before anybody writes
    rows: list[dict[str, object]] = []
    indices = range(workers.rank, count, workers.world)
    pieces = _made(synth, backgrounds, defect, indices, seed, references, batch_size)
    quiet = None if progress and workers.writes else True  # None: quiet unless on a terminal
    with tqdm(total=len(indices), desc="generate", unit="image", disable=quiet) as bar:
        for row, image, mask in pieces:
            if not rows:  # only now: a first batch that cannot be read leaves nothing behind
                for folder in ("images", "approximate_masks"):
                    (out / folder).mkdir(parents=True, exist_ok=True)
            write_atomic(out / str(row["path"]), to_png(image))
            write_atomic(out / str(row["approximate_mask"]), to_png(mask))
            rows.append(row)
            bar.update()
    everybody = gather(rows, workers)
    manifest = pd.DataFrame(everybody, columns=list(EXPORT_COLUMNS)).sort_values("index")
    if workers.writes:
        write_atomic(out / "manifest.csv", manifest.to_csv(index=False).encode())
    return manifest


def _made(
    synth: Synthesizer,
    backgrounds: list[Path],
    defect: str,
    wanted: range,
    seed: int,
    references: list[Path] | None,
    batch_size: int,
) -> Iterator[tuple[dict[str, object], np.ndarray, np.ndarray]]:
    """Manifest row, image and approximate mask of each index, in order, a batch in memory."""
    of_background = Shuffle(len(backgrounds), seed, "backgrounds")
    of_reference = Shuffle(len(references), seed, "references") if references else None
    for start in range(0, len(wanted), batch_size):
        indices = wanted[start : start + batch_size]
        sources = [backgrounds[of_background[i]] for i in indices]
        x = synth.images(sources)
        taken = [""] * len(indices)
        if references and of_reference:
            taken = [str(references[of_reference[i]]) for i in indices]
            guide = synth.reference_guides(synth.images(taken), defect)
        else:
            guide = synth.latent_guides(defect, seed, indices)
        background = synth.background(x)
        images = to_uint8(synth.paint(background, guide))
        # Against the model's own Normal: what it fails to reconstruct of a part is no defect.
        masks = approximate_masks(to_uint8(synth.without_defect(background)), images)
        for n, index in enumerate(indices):
            row: dict[str, object] = {
                "path": f"images/{index:06d}.png",
                "approximate_mask": f"approximate_masks/{index:06d}.png",
                "background": str(sources[n]),
                "defect": defect,
                "guidance": "reference" if references else "latent",
                "reference": taken[n],
                "seed": seed,
                "index": index,
                "checkpoint_sha256": synth.checkpoint_hash,
            }
            yield row, images[n], masks[n]
