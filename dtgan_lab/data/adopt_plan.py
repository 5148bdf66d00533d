"""From adopted pictures to a data set: copies out, small classes named, groups dealt, written."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pandas as pd

from dtgan_core.dataset import DatasetError
from dtgan_core.files import shown
from dtgan_lab.data.adopt import SHARES, Adopted, Listing, Recipe
from dtgan_lab.data.archives import LeftOut
from dtgan_lab.data.dataset import MANIFEST_COLUMNS, MASKS_FOLDER, SPLITS, DatasetInfo
from dtgan_lab.data.layout import write_dataset
from dtgan_lab.data.tiles import connected_groups
from dtgan_lab.data.validation import SMALLEST_CLASS, TINY_CLASS

#: The smallest training class of a real data set that this kit was trained on, over all products.
FEWEST = 39
FEWEST_TRIED = f"{FEWEST} images of 6 different parts (cracks of the magnetic tiles)"

_SLUG = re.compile(r"[^A-Za-z0-9._-]+")
_TRAIN = SPLITS[0]


class Placed(NamedTuple):
    """A picture with its place in the data set."""

    picture: Adopted
    group: str
    split: str

    @property
    def path(self) -> str:
        """Place in the data set: readable, ASCII, and different for different sources."""
        candidate = self.picture.candidate
        folder = PurePosixPath(self.split, candidate.product, candidate.defect)
        if candidate.file:
            return str(folder / candidate.file)
        stem = _SLUG.sub("-", PurePosixPath(candidate.name).stem).strip("-.")[:60] or "image"
        name = f"{candidate.product}/{candidate.defect}/{candidate.name}"
        digest = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()
        return str(folder / f"{stem}-{digest[:8]}.png")


@dataclass(frozen=True)
class Plan:
    """What will be written; `found` counts candidates, unusable ones and copies among them."""

    images: list[Placed]
    found: dict[tuple[str, str], int]
    left_out: list[LeftOut]
    remarks: list[str]
    recipe: Recipe

    @property
    def products(self) -> tuple[str, ...]:
        """Products by name."""
        return tuple(sorted({item.picture.candidate.product for item in self.images}))

    @property
    def defects(self) -> tuple[str, ...]:
        """The anchor, then the other defects by name."""
        names = {item.picture.candidate.defect for item in self.images}
        return (self.recipe.anchor, *sorted(names - {self.recipe.anchor}))

    def table(self) -> str:
        """Pictures per product and defect: found, taken, groups, and images per split."""
        rows = []
        for (product, defect), found in self.found.items():
            shows = [(i, i.picture.candidate) for i in self.images]
            cell = [i for i, c in shows if (c.product, c.defect) == (product, defect)]
            row: dict[str, str | int] = {"product": product, "defect": defect}
            row |= {"found": found, "taken": len(cell), "groups": len({i.group for i in cell})}
            for split in SPLITS:
                count = sum(item.split == split for item in cell)
                if split in SHARES or any(item.split == split for item in self.images):
                    row[split] = count
            rows.append(row)
        return pd.DataFrame(rows).to_string(index=False)


def make_plan(pictures: Sequence[Adopted], listing: Listing, recipe: Recipe) -> Plan:
    """Take copies out, check that there is enough, and deal groups to the splits.

    Pictures that are the same file, the same pixels, or the same image once fitted are kept once;
    the groups of all copies become one. The same picture under two labels is left out altogether.
    DatasetError: no anchor, no defect, too few images, or splits that tear a group apart.
    """
    groups = _groups(pictures)
    kept, copies = _without_copies(pictures)
    kept, few, notes = _enough(kept, pictures, groups, recipe)
    splits = _splits(kept, pictures, groups, recipe)
    images = [Placed(pictures[i], groups[i], splits[groups[i]]) for i in kept]
    _check_training(images, recipe)
    found = Counter((item.product, item.defect) for item in listing.candidates)
    left_out = [*listing.left_out, *copies, *few]
    remarks = [*listing.remarks, *notes]
    return Plan(images, dict(sorted(found.items())), left_out, remarks, recipe)


def _groups(pictures: Sequence[Adopted]) -> list[str]:
    """The group of each picture, named after its first member; copies join their groups."""
    pairs: list[tuple[int, int, float]] = []
    first: dict[tuple[str, str], int] = {}
    for index, item in enumerate(pictures):
        keys = [("group", item.candidate.group)] if item.candidate.group else []
        # Where the user says the splits, a copy must not pull two of his groups together.
        keys += [] if item.candidate.split else [("same", item.candidate.picture or item.sha256)]
        for key in keys:
            pairs.append((first.setdefault(key, index), index, 1.0))
    numbers = connected_groups(len(pictures), [pair for pair in pairs if pair[0] != pair[1]])
    names: dict[int, str] = {}
    for number, item in zip(numbers, pictures, strict=True):
        names.setdefault(number, shown(item.candidate.group or item.candidate.name))
    return [names[number] for number in numbers]


def _without_copies(pictures: Sequence[Adopted]) -> tuple[list[int], list[LeftOut]]:
    """Indices of the pictures that stay, and the copies that do not."""
    same: dict[str, list[int]] = {}
    for index, item in enumerate(pictures):
        same.setdefault(item.candidate.picture or item.sha256, []).append(index)
    kept: list[int] = []
    left_out: list[LeftOut] = []
    for indices in same.values():
        first = pictures[indices[0]]
        labels = {(pictures[i].candidate.product, pictures[i].candidate.defect) for i in indices}
        if len(labels) > 1:
            places = ", ".join(sorted("/".join(label) for label in labels))
            left_out += [
                LeftOut(
                    shown(pictures[i].candidate.name),
                    "contradiction",
                    f"the same picture stands under {places}; delete the wrong ones",
                )
                for i in indices
            ]
            continue
        kept.append(indices[0])
        for i in indices[1:]:
            how = _sameness(first, pictures[i])
            name = shown(first.candidate.name)
            left_out.append(LeftOut(shown(pictures[i].candidate.name), "copy", f"{how} as {name}"))
    return sorted(kept), left_out


def _sameness(first: Adopted, other: Adopted) -> str:
    if first.content == other.content:
        return "the same bytes"
    if first.candidate.picture or first.pixels == other.pixels:
        return "the same pixels"
    return "the same image at the written size"


def _enough(
    kept: list[int], pictures: Sequence[Adopted], groups: list[str], recipe: Recipe
) -> tuple[list[int], list[LeftOut], list[str]]:
    """Refuse or leave out defects that cannot be learned; tell those that are small."""
    members: dict[str, list[int]] = {recipe.anchor: []}
    for i in kept:
        members.setdefault(pictures[i].candidate.defect, []).append(i)
    few = {name: len(found) for name, found in members.items() if len(found) < SMALLEST_CLASS}
    counts = ", ".join(f"{name}: {count}" for name, count in few.items())
    expected = f"expected at least {SMALLEST_CLASS} different images of each defect"
    if recipe.anchor in few:
        raise DatasetError(
            f"found {few[recipe.anchor]} usable images of the anchor {recipe.anchor!r}, "
            f"{expected}; add images of good parts"
        )
    if few and not recipe.allow_few:
        raise DatasetError(
            f"too few images ({counts}), {expected}: training compares two of them; add images, or "
            "leave these defects out with --allow-few"
        )
    if len(members) - len(few) < 2:
        raise DatasetError(
            f"found images of {recipe.anchor} alone{f' (too few: {counts})' if few else ''}, "
            f"expected at least one other defect of {SMALLEST_CLASS} images; add a folder of "
            "defective parts"
        )
    left_out = [
        LeftOut(shown(pictures[i].candidate.name), "too few", f"only {few[name]} of {name}")
        for name in few
        for i in members[name]
    ]
    notes = [
        _size_note(name, found, {groups[i] for i in found})
        for name, found in members.items()
        if name not in few and name != recipe.anchor
    ]
    stay = [i for i in kept if pictures[i].candidate.defect not in few]
    return stay, left_out, notes


def _size_note(defect: str, found: list[int], groups: set[str]) -> str:
    parts = f" of {len(groups)} groups" if len(groups) < len(found) else ""
    note = f"{defect}: {len(found)} different images{parts} over all products"
    if len(found) < TINY_CLASS:
        return (
            f"{note}, fewer than the {TINY_CLASS} of the paper's smallest class; the kit was tried "
            f"down to {FEWEST_TRIED}: expect copies of what is there, little else"
        )
    return f"{note} (the paper's smallest class has {TINY_CLASS}; tried here: {FEWEST_TRIED})"


def _splits(
    kept: list[int], pictures: Sequence[Adopted], groups: list[str], recipe: Recipe
) -> dict[str, str]:
    """The split of each group: as the source says, or dealt."""
    given: dict[str, set[str]] = {}
    cells: dict[str, list[str]] = {}
    for i in kept:
        candidate = pictures[i].candidate
        cells.setdefault(groups[i], []).append(f"{candidate.product}/{candidate.defect}")
        if candidate.split:
            given.setdefault(groups[i], set()).add(candidate.split)
    torn = [
        f"group {group!r} lies in {', '.join(sorted(splits))}"
        for group, splits in given.items()
        if len(splits) > 1
    ]
    if torn:
        raise DatasetError("a group must lie in one split; correct the column split:", {"": torn})
    fixed = {group: splits.pop() for group, splits in given.items()}
    dealt = recipe.deal({group: c for group, c in cells.items() if group not in fixed}, recipe.seed)
    return dealt | fixed if fixed else _topped_up(dealt, kept, pictures, groups)


def _topped_up(
    splits: dict[str, str], kept: list[int], pictures: Sequence[Adopted], groups: list[str]
) -> dict[str, str]:
    """Give held-out groups of a defect back to training until it has enough."""
    members: dict[str, list[int]] = {}
    for i in kept:
        members.setdefault(pictures[i].candidate.defect, []).append(i)
    result = dict(splits)
    for found in members.values():
        for i in sorted(found, key=lambda i: SPLITS.index(splits[groups[i]])):  # val before test
            if sum(result[groups[k]] == _TRAIN for k in found) >= SMALLEST_CLASS:
                break
            result[groups[i]] = _TRAIN
    return result


def _check_training(images: list[Placed], recipe: Recipe) -> None:
    """The column split of a table may leave a defect without training images."""
    counts = dict.fromkeys([recipe.anchor, *(i.picture.candidate.defect for i in images)], 0)
    for item in images:
        counts[item.picture.candidate.defect] += item.split == _TRAIN
    few = {
        name: [f"{name}: {count} training images, expected at least {SMALLEST_CLASS}"]
        for name, count in counts.items()
        if count < SMALLEST_CLASS
    }
    if few:
        raise DatasetError("too few images to train on; give more of them the split train:", few)


def write_plan(plan: Plan, folder: Path) -> None:
    """Move what `adopt` spooled to its place in `folder`, on one disk; the manifest is last."""
    recipe = plan.recipe
    info = DatasetInfo(
        name=recipe.name,
        anchor=recipe.anchor,
        products=plan.products,
        defects=plan.defects,
        image_size=(recipe.size, recipe.size),
        channels=recipe.channels,
        flips=dict.fromkeys(plan.products, recipe.flips),
        licence=recipe.licence,
        citation=recipe.citation,
        source=recipe.source,
        command=recipe.command,
    )
    rows = list(_written(plan, folder))
    write_dataset(folder, pd.DataFrame(rows, columns=list(MANIFEST_COLUMNS)), info)


def _written(plan: Plan, folder: Path) -> Iterator[dict[str, str]]:
    for item in plan.images:
        picture, mask = item.picture, ""
        if picture.mask is not None:
            mask = f"{MASKS_FOLDER}/{item.path}"
            _move(picture.mask, folder / mask)
        _move(picture.png, folder / item.path)
        yield {
            "path": item.path,
            "product": picture.candidate.product,
            "defect": picture.candidate.defect,
            "split": item.split,
            "group": item.group,
            "mask": mask,
            "twin": "",
            "seed": picture.candidate.seed,
            "sha256": picture.sha256,
            "source": shown(picture.candidate.name),
        }


def _move(spooled: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(spooled, target)
