"""Put made defects back onto the whole photographs that their windows were cut out of.

    python data_scripts/paste_back.py --export build/cracks --data build/data/my-parts
        --photographs my_parts --out build/whole

What the model changed is enlarged to the window's side in the photograph and added there. Outside
the mask it changed nothing, so the photograph stays as sharp as it was, and no seam shows.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs without an installation

from dtgan_core.dataset import DatasetError
from dtgan_core.files import write_atomic
from dtgan_core.images import open_image, resized, to_png
from dtgan_lab.data.preparing import guarded
from dtgan_lab.data.validation import load_dataset
from dtgan_lab.files import cell, require_empty
from dtgan_lab.options import Parser, path

COLUMNS = ["path", "mask", "defect", "photograph", "left", "top", "side"]


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser: argparse.ArgumentParser = Parser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--export", type=path, required=True, help="folder that `generate` wrote")
    parser.add_argument("--data", required=True, help="data set of prepare_folder.py --crop")
    parser.add_argument("--photographs", type=path, required=True, help="its --source, a folder")
    parser.add_argument("--out", required=True, help="new folder of images/ and masks/")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = parse(arguments)
    return guarded("paste_back", options.out, lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    require_empty(options.out)
    dataset = load_dataset(options.data)
    crop = re.search(r"--crop (\d+)", dataset.info.command)
    if crop is None:
        raise DatasetError(
            f"{options.data}: its pictures are no windows; prepare it with --crop, or take the "
            "exported pictures as they are"
        )
    side, mode = int(crop[1]), "L" if dataset.info.channels == 1 else "RGB"
    sources = dict(zip(dataset.manifest["path"], dataset.manifest["source"], strict=True))
    try:
        listed = pd.read_csv(options.export / "manifest.csv", keep_default_na=False)
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"{options.export}/manifest.csv: cannot be read ({error}), expected the list of a "
            "finished export of `generate`"
        ) from error
    column = next((name for name in map(str, listed) if name.endswith("_mask")), None)
    if column is None:
        raise DatasetError(f"{options.export}: found no masks; export with --format folder")
    if missing := {"path", "background", "defect"} - set(listed):
        raise DatasetError(
            f"{options.export}/manifest.csv: found no column {', '.join(sorted(missing))}, "
            "expected the list of an export of `generate`"
        )
    if not options.photographs.is_dir():
        raise DatasetError(
            f"{options.photographs}: is no folder, expected that of the photographs: of a CSV file "
            "the folder it lies in, of an archive the folder it was unpacked to"
        )
    found = (place for place in options.photographs.rglob("*") if place.is_file())
    there = {cell(place.relative_to(options.photographs).as_posix()): place for place in found}
    backgrounds = [_inside(dataset.root, name) for name in listed["background"]]
    for background, inside in zip(listed["background"], backgrounds, strict=True):
        if inside not in sources:
            raise DatasetError(
                f"{options.export}/manifest.csv: the background {background} is none of "
                f"{options.data}; export onto pictures of that data set"
            )
    names = {sources[inside].rpartition("@")[0] for inside in backgrounds}
    places = {name: there.get(name, options.photographs / name) for name in names}  # or absolute
    if lost := [name for name, place in places.items() if not place.is_file()]:
        raise DatasetError(
            f"{options.photographs}: {len(lost)} photographs are not there, expected all that the "
            "windows were cut out of; give the --source of prepare_folder.py:",
            {"": sorted(lost)},
        )
    out = options.out.resolve()
    working = out.with_name(f".{out.name}.tmp")  # a damaged picture must not leave half of OUT
    shutil.rmtree(working, ignore_errors=True)
    rows: list[list[object]] = []
    try:
        for number, row in enumerate(tqdm(listed.to_dict("records"), unit="image", disable=None)):
            name, _, corner = sources[backgrounds[number]].rpartition("@")
            left, top = map(int, corner.split(","))
            photograph = open_image(places[name], mode)
            made = open_image(options.export / row["path"], mode)
            part = resized(open_image(Path(row["background"]), mode), made.height)
            mask = open_image(options.export / row[column], "L")
            whole, marks = pasted(photograph, made, part, mask, (left, top, side))
            for kind, picture in (("images", whole), ("masks", marks)):
                (working / kind).mkdir(parents=True, exist_ok=True)
                write_atomic(working / kind / f"{number:06d}.png", to_png(np.asarray(picture)))
            files = [f"images/{number:06d}.png", f"masks/{number:06d}.png"]
            rows.append([*files, row["defect"], name, left, top, side])
        table = pd.DataFrame(rows, columns=COLUMNS)
        write_atomic(working / "manifest.csv", table.to_csv(index=False).encode())
        os.replace(working, out)
    finally:
        shutil.rmtree(working, ignore_errors=True)
    print(f"done: {len(rows)} photographs in {options.out}/images, listed in manifest.csv")


def _inside(root: Path, background: str) -> str:
    """A background's place in the data set."""
    return Path(background).resolve().as_posix().removeprefix(f"{root.resolve()}/")


def pasted(
    photograph: Image.Image,
    made: Image.Image,
    part: Image.Image,
    mask: Image.Image,
    window: tuple[int, int, int],
) -> tuple[Image.Image, Image.Image]:
    """A photograph with a defect, and the defect's mask (0 or 255) of its size.

    Args:
        photograph: the whole, grey or RGB.
        made: the window with the defect, of any side and the photograph's mode.
        part: the same without it.
        mask: where the two differ, of their size.
        window: left, top and side in the photograph; negative where it goes beyond it.
    """
    left, top, side = window
    change = np.asarray(made, np.float32) - np.asarray(part, np.float32)
    planes = change.reshape(*change.shape[:2], -1)
    large = [
        np.asarray(Image.fromarray(plane).resize((side, side)))
        for plane in np.moveaxis(planes, 2, 0)
    ]
    whole = np.asarray(photograph, np.float32).copy()
    marks = Image.new("L", photograph.size)
    marks.paste(mask.resize((side, side)).point(lambda level: 255 * (level > 127)), (left, top))
    there = np.s_[max(top, 0) : top + side, max(left, 0) : left + side]
    height, width = whole[there].shape[:2]
    added = np.stack(large, axis=-1)[max(-top, 0) :, max(-left, 0) :][:height, :width]
    whole[there] += added.reshape(whole[there].shape)
    return Image.fromarray(whole.round().clip(0, 255).astype(np.uint8)), marks


if __name__ == "__main__":
    sys.exit(main())
