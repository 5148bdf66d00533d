"""Bring your own pictures, in folders or listed in a CSV file, into the kit's layout."""

from __future__ import annotations

import argparse
import io
import re
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter
from PIL.PngImagePlugin import PngInfo
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs without an installation

from annotations import annotated
from dtgan_core.dataset import FLIPS, DatasetError
from dtgan_core.files import shown, write_atomic
from dtgan_core.images import decoded
from dtgan_lab.data import Dataset
from dtgan_lab.data.adopt import Adopted, Candidate, Listing
from dtgan_lab.data.adopt_plan import Plan
from dtgan_lab.data.archives import LeftOut, Tree
from dtgan_lab.data.folder import table_source
from dtgan_lab.data.preparing import (
    add_options,
    command_line,
    guarded,
    prepare,
    recipe_of,
    tree_source,
)
from dtgan_lab.files import make_place
from dtgan_lab.options import Parser, path
from windows import MOST, Windows, in_windows

FEW = 39  # training images, of which a real defect was learned well (docs tell of fewer)
KIT = "notebooks/checkpoints/composed-laptop"  # the model that a training begins with
MAKER = "prepare_folder.py --dry-run"  # stands in that picture
COLUMNS = 10  # pictures of a cell in the picture of a dry run
EPILOG = """\
A folder has either of these forms; --anchor names the folder of good parts, here "good":

    parts/good/*  parts/scratched/*                    one product, named parts (or --product)
    parts/lid/good/*  parts/lid/scratched/*  ...       a folder for each product

A CSV file has the columns path, product, defect and, where you like, group, mask, split; paths
start at its own folder. A zip or tar archive of such folders will do as well.

--annotations names a folder of LabelMe files, YOLO texts or mask pictures, or a COCO file: they
become masks, which yardsticks and segmentation use. They are not needed. A file belongs to the
picture of the same place and name (scratched/017.json to scratched/017.png), or to the only one of
that name.

--crop PX cuts windows of PX x PX pixels out of photographs: around every marked defect (marks are
needed then), about as often there on good parts. The manifest names picture, column, row of each.

--dry-run ends with a picture of what would be taught, OUT.png, a row for each product and defect.

Images of one group never straddle training and test. Several pictures of one part are one group:
say so with the column group, or with --group-pattern, for example 'part(\\d+)' for
part017_left.png and part017_right.png. Copies (same bytes, pixels, or image once resized) are
kept once. Without a column split, groups go to train, val and test (70/10/20 % of each class).

examples:
  python data_scripts/prepare_folder.py --source parts --anchor good --size 64 \\
      --out build/data/parts --dry-run
  python data_scripts/prepare_folder.py --source parts --anchor good --size 64 \\
      --out build/data/parts
  python data_scripts/prepare_folder.py --source parts.csv --anchor good --flips both \\
      --out build/data/parts

docs/your_own_data.md goes on from here to a trained model.
"""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser: argparse.ArgumentParser = Parser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", required=True, help="folder, archive or CSV file of pictures")
    parser.add_argument("--anchor", required=True, help="the defect that means: nothing there")
    parser.add_argument(
        "--out",
        required=True,
        help="folder to write to: empty, or this set made before",
    )
    parser.add_argument("--product", help="product name, where the source names none")
    parser.add_argument("--name", help="short name of the data set (default: that of the source)")
    parser.add_argument(
        "--group-pattern",
        type=_pattern,
        metavar="REGEX",
        help="searched in each path; what its (brackets) match names the image's group",
    )
    parser.add_argument(
        "--flips",
        choices=("none", "horizontal", "vertical", "both"),
        default="none",
        help="flips that leave your parts plausible; training draws more variety from them "
        "(default none)",
    )
    parser.add_argument(
        "--annotations",
        type=path,
        help="COCO file, or folder of LabelMe, YOLO or mask files; not needed",
    )
    parser.add_argument(
        "--crop",
        metavar="PX",
        help=f"cut windows of this side, {MOST} of a picture at most; needs marked defects",
    )
    parser.add_argument("--licence", default="not stated", help="terms of use, for dataset.json")
    parser.add_argument("--citation", default="none", help="what to cite, for dataset.json")
    add_options(parser)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = parse(arguments)
    return guarded("prepare_folder", options.out, lambda: _run(options))


def _pattern(text: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no regular expression ({error})") from None
    if pattern.groups != 1:
        raise argparse.ArgumentTypeError(
            f"{text!r} has {pattern.groups} pairs of brackets, expected one, as in 'part(\\d+)'"
        )
    return pattern


def _run(options: argparse.Namespace) -> None:
    if options.out.name in ("", ".."):
        raise DatasetError(
            f"--out {options.out}: has no name of its own, expected one such as build/data/parts"
        )
    sheet = options.out.with_name(f"{options.out.name}.png")
    if sheet.exists() and not _is_sheet(sheet):
        raise DatasetError(
            f"{sheet}: is there and no picture of this script; choose another --out, or move it"
        )
    title = options.source.resolve().name.split(".")[0] or "parts"
    if options.source.suffix.lower() == ".csv":
        if options.group_pattern:
            raise DatasetError("--group-pattern is for folders; a table has the column group")
        source = table_source(options.source, options.product)
    else:
        label = partial(
            label_folders,
            anchor=options.anchor,
            product=options.product,
            title=title,
            pattern=options.group_pattern,
        )
        source = tree_source([options.source], label)
    if options.annotations:
        source = annotated(source, options.annotations)
    if options.crop:
        mode = "L" if options.channels == 1 else "RGB"
        windows = Windows(options.crop, options.anchor, mode, options.seed)
        source = in_windows(source, windows)
    recipe = recipe_of(
        options,
        name=options.name or title,
        anchor=options.anchor,
        licence=options.licence,
        citation=options.citation,
        source=f"own pictures, {title}",
        command=command_line("prepare_folder", _words(options), options),
        flips={"none": (), "both": FLIPS}.get(options.flips, (options.flips,)),
    )
    look = partial(show, target=sheet)
    dataset = prepare(
        source, recipe, options.out, dry_run=options.dry_run, force=options.force, look=look
    )
    if dataset is None:
        print("next: open the picture; if every defect is seen there, say it without --dry-run")
    else:
        print(f"next, to defects on good parts:\n{_next_steps(dataset, options)}")


def _next_steps(dataset: Dataset, options: argparse.Namespace) -> str:
    """The commands from a prepared set to exported defects, of the product with most kinds."""
    name, anchor, rows = shlex.quote(options.out.name), dataset.info.anchor, dataset.manifest
    folders: dict[str, dict[str, Path]] = {}  # of training images, by product and defect
    columns = rows.loc[rows["split"] == "train", ["product", "defect", "path"]]
    for product, defect, name_of in columns.itertuples(index=False):
        folders.setdefault(product, {})[defect] = options.out / Path(name_of).parent
    product = max(folders, key=lambda name: (anchor in folders[name], len(folders[name])))
    good = folders[product].pop(anchor)
    kinds = sorted(folders[product]) or [d for d in dataset.info.defects if d != anchor]
    source = good.parent if len(kinds) > 1 else good.parent / kinds[0]
    table = options.source.suffix.lower() == ".csv"
    photographs = options.source.parent if table else options.source
    if photographs.is_file():  # an archive
        photographs = Path(f"UNPACKED-{photographs.name}")
    data, references, backgrounds, parts = (
        shlex.quote(str(place)) for place in (options.out, source, good, photographs)
    )
    kit = f"--start-from {KIT} --iterations 1000 " if len(dataset.info.defects) <= 3 else ""
    steps = [
        f"-m dtgan_core train --data {data} {kit}--out runs/{name}",
        f"-m dtgan_core samples --checkpoint runs/{name} --data {data} --rows 4 "
        f"--out build/made/{name}.png",
        f"-m dtgan_core generate --checkpoint runs/{name} --backgrounds {backgrounds} "
        f"--references {references} --defect {shlex.join(kinds)} --count 200 "
        f"--out build/made/{name}",
    ]
    if options.crop:
        steps.append(
            f"data_scripts/paste_back.py --export build/made/{name} --data {data} "
            f"--photographs {parts} --out build/whole/{name}"
        )
    return "\n".join(f".venv/bin/python {step}" for step in steps)


def label_folders(
    tree: Tree, anchor: str, product: str | None, title: str, pattern: re.Pattern[str] | None = None
) -> Listing:
    """Read product and defect off the folders; the folder of the anchor tells at which depth.

    Folders below a defect's folder do not matter. `product` is the product's name where there are
    no product folders (None takes `title`, the source's); `pattern` is searched in every path, what
    its first group finds names the image's group. DatasetError: no folder of the anchor, or at both
    depths.
    """
    places = {name: PurePosixPath(name).parts for name in tree.readers}
    depth = _anchor_depth(list(places.values()), anchor, title)
    if depth == 1 and product is not None:
        raise DatasetError(
            f"{title}: has a folder for each product ({anchor} lies inside them), so --product "
            f"{product} names none; leave it away"
        )
    listing = Listing(left_out=tree.left_out)
    lonely = 0
    for name, parts in places.items():
        if len(parts) < depth + 2:
            expected = "<product>/<defect>/<image>" if depth else "<defect>/<image>"
            reason = f"lies in no folder of a defect, expected {expected}"
            listing.left_out.append(LeftOut(shown(name), "misplaced", reason))
            continue
        owner = parts[0] if depth else (product or title)
        match = pattern.search(name) if pattern else None
        lonely += match is None
        listing.candidates.append(
            Candidate(
                name,
                tree.readers[name],
                owner,
                parts[depth],
                group=f"{owner}/{match[1]}" if match else "",
            )
        )
    if pattern and lonely:
        listing.remarks.append(
            f"--group-pattern finds nothing in {lonely} of {len(listing.candidates)} paths; each "
            "of these images is a group of its own"
        )
    return listing


def _anchor_depth(places: Sequence[tuple[str, ...]], anchor: str, title: str) -> int:
    """0 where the anchor's folder lies at the top, 1 where it lies in product folders."""
    found = {
        depth
        for parts in places
        for depth in (0, 1)
        if len(parts) > depth + 1 and parts[depth] == anchor
    }
    if len(found) == 1:
        return found.pop()
    if found:
        raise DatasetError(
            f"{title}: has images in {anchor}/ and in */{anchor}/, expected one of the two; name "
            "products and defects differently"
        )
    names = sorted({part for parts in places for part in parts[:-1][:2]})
    listed = ", ".join(shown(name) for name in names[:12]) or "none with images"
    near = [name for name in names if name.casefold() == anchor.casefold()]
    remedy = f"write --anchor {near[0]}" if near else "name the folder of good parts with --anchor"
    raise DatasetError(
        f"{title}: no image in {anchor}/ or */{anchor}/, found the folders: {listed}; {remedy}"
    )


def _is_sheet(path: Path) -> bool:
    """Whether a file is a picture that `show` wrote."""
    try:
        with path.open("rb") as file:
            return MAKER.encode() in file.read(200)  # before the pixels
    except OSError:
        return False


def show(plan: Plan, target: Path) -> None:
    """Write a picture of the training images, a row a cell, and print what is odd about them."""
    cells: dict[str, list[Adopted]] = {}
    for item in plan.images:
        cell = cells.setdefault(" / ".join(item.cell), [])
        cell += [item] if item.split == "train" else []
    side, line = max(plan.recipe.size, 64), 14  # pixels
    sheet = Image.new("RGB", (COLUMNS * (side + 2), len(cells) * (side + line + 4)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (name, cell) in enumerate(sorted(cells.items())):
        top = row * (side + line + 4)
        draw.text((2, top), f"{name}: {len(cell)} to learn from", fill="black")
        for column, item in enumerate(cell[:: max(1, len(cell) // COLUMNS)][:COLUMNS]):
            with decoded(item.png, "RGB") as image:
                tile = image.resize((side, side), Image.Resampling.NEAREST)
            if item.mask is not None:
                with decoded(item.mask, "L") as mask:
                    grown = mask.resize((side, side), Image.Resampling.NEAREST)
                rim = ImageChops.subtract(grown.filter(ImageFilter.MaxFilter(3)), grown)
                tile.paste((213, 94, 0), mask=rim)
            sheet.paste(tile, (column * (side + 2), top + line))
    make_place(target)
    info, png = PngInfo(), io.BytesIO()
    info.add_text("Software", MAKER)
    sheet.save(png, "PNG", pnginfo=info)
    write_atomic(target, png.getvalue())
    for name, cell in sorted(cells.items()):
        sides = [_sides(item.mask) for item in cell if item.mask is not None]
        if sides:
            thick, long = np.median(sides, axis=0)
            told = f"{thick:.1f} pixels thick and {long:.0f} of {plan.recipe.size} long"
            print(f"marks of {name}: {told} (medians)")
    parts = {item.group for item in plan.images}
    if len(parts) == len({item.name.rsplit("@", 1)[0] for item in plan.images}):
        print(
            "note: every picture counts as a part of its own; where several show one part, tests "
            "come out too good: say --group-pattern, or list them in a CSV file with a column group"
        )
    small = [f"{name} ({len(cell)})" for name, cell in sorted(cells.items()) if len(cell) < FEW]
    if small:
        print(
            f"note: few to learn from: {', '.join(small)}; docs/your_own_data.md tells what 5, 24 "
            f"and {FEW} pictures of a defect gave; another product that has it helps, too"
        )
    print(f"{target}: a picture of what would be taught, with masks outlined where there are any")


def _sides(path: Path) -> tuple[float, int]:
    """Pixels that a mask is thick, twice the way to its innermost pixel's rim, and long."""
    with decoded(path, "L") as image:
        mask = np.asarray(image) > 0
    extent = max(np.ptp(places) + 1 for places in mask.nonzero())
    return 2 * ndimage.distance_transform_edt(np.pad(mask, 1)).max() - 1, int(extent)


def _words(options: argparse.Namespace) -> list[str]:
    words = ["--source", "SOURCE", "--anchor", options.anchor, "--flips", options.flips]
    for name in ("product", "name", "licence", "citation"):
        if getattr(options, name) not in (None, "not stated", "none"):
            words += [f"--{name}", getattr(options, name)]
    words += ["--annotations", "ANNOTATIONS"] if options.annotations else []
    words += ["--crop", str(options.crop)] if options.crop else []
    if options.group_pattern:
        words += ["--group-pattern", options.group_pattern.pattern]
    return words


if __name__ == "__main__":
    sys.exit(main())
