"""Bring the Magnetic Tile Defect data set (MTD) into the kit's layout."""

from __future__ import annotations

import argparse
import hashlib
import shlex
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs without an installation

from dtgan_core.dataset import DatasetError
from dtgan_core.files import problems, sha256_of
from dtgan_lab.data.adopt import Source
from dtgan_lab.data.layout import keep_apart
from dtgan_lab.data.mtd import CITATION, Mapping, Options, label_tiles, mtd_recipe
from dtgan_lab.data.mtd_source import (
    ARCHIVE_SHA256,
    ARCHIVE_URL,
    CLASSES,
    CONTENT_SHA256,
    PAGE,
    content_digest,
    read_source,
)
from dtgan_lab.data.preparing import add_runs, guarded, prepare
from dtgan_lab.files import read_toml
from dtgan_lab.options import Parser

TIMEOUT = 60  # seconds without a byte
LARGEST_ZIP = 512 * 2**20  # bytes
EPILOG = f"""\
The mapping file is TOML. This one says what happens without it; classes that are not
named (here Break, Fray and Uneven) are left out:

    anchor = "Normal"        # the defect that means "nothing there"
    [classes]                # published class = defect
    Free = "Normal"
    Crack = "Scratches"
    Blowhole = "Spots"

The set shows every tile about six times, under six exposures. Tiles are recognised by
their texture and whole tiles are dealt to train, val and test (70/10/20 %).

examples:
  python data_scripts/prepare_mtd.py --source mtd.zip --out build/data/mtd
  python data_scripts/prepare_mtd.py --source mtd.zip --out build/data/mtd-crop \\
      --crop-around-mask 96 --size 64

{PAGE}
Cite: {CITATION}
"""


def read_mapping(path: Path) -> Mapping:
    """Read a mapping file in TOML (see EPILOG).

    DatasetError: unreadable, unknown keys or classes, or no class becomes the anchor, or all do.
    """
    value = {"anchor": None, "classes": None} | read_toml(path, "a mapping")
    wrong = problems(value, Mapping)
    if not wrong:
        anchor, classes = value["anchor"], value["classes"]
        wrong = [
            f"[classes] names {name!r}, expected one of {', '.join(CLASSES)}"
            for name in classes
            if name not in CLASSES
        ]
        if anchor not in classes.values():
            wrong.append(f"no class becomes the anchor {anchor!r}, expected at least one")
        if not {*classes.values()} - {anchor}:
            wrong.append("every class becomes the anchor, expected at least one defect")
    if wrong:
        raise DatasetError(f"{path}: not a usable mapping; correct the file:", {"": wrong})
    return Mapping(**value)


@contextmanager
def downloaded_archive(url: str = ARCHIVE_URL) -> Iterator[Path]:
    """Download the archive to a temporary folder, if it is the published set; gone afterwards."""
    by_hand = f"download {url} with a browser and name the file with --source"
    with tempfile.TemporaryDirectory(prefix="mtd-") as folder:
        archive = Path(folder) / "mtd.zip"
        try:
            with (
                urllib.request.urlopen(url, timeout=TIMEOUT) as answer,
                open(archive, "wb") as file,
            ):
                while piece := answer.read(2**20):
                    file.write(piece)
                    if file.tell() > LARGEST_ZIP:
                        raise OSError(f"more than {LARGEST_ZIP:,} bytes, expected 53 MB")
        except (urllib.error.URLError, OSError) as error:
            raise DatasetError(f"{url}: the download failed ({error}); {by_hand}") from error
        found = sha256_of(archive)
        # GitHub packs archives on demand, so the same files may come in a zip with other bytes.
        if found != ARCHIVE_SHA256 and content_digest(read_source(archive)) != CONTENT_SHA256:
            raise DatasetError(
                f"{url}: sha256 {found}, expected {ARCHIVE_SHA256}, and the images in it are not "
                f"the published ones; try again, or {by_hand}"
            )
        yield archive


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser: argparse.ArgumentParser = Parser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, help="folder to write to: empty, or MTD")
    parser.add_argument("--source", help="published zip or unpacked folder; without it: download")
    parser.add_argument("--mapping", help="TOML file, published class -> defect")
    parser.add_argument("--size", default=128, help="side in pixels (default 128)")
    parser.add_argument(
        "--crop-around-mask",
        metavar="PX",
        help="cut a window of PX pixels around each defect, and anywhere in defect-free tiles, "
        "before resizing: one window per image; for small networks",
    )
    parser.add_argument("--seed", default=0, help="of splits and windows (default 0)")
    add_runs(parser)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = parse(arguments)
    return guarded("prepare_mtd", options.out, lambda: _prepare(options))


def _prepare(arguments: argparse.Namespace) -> None:
    keep_apart(arguments.out, [path for path in (arguments.source, arguments.mapping) if path])
    options = Options(
        mapping=read_mapping(arguments.mapping) if arguments.mapping else Mapping(),
        size=arguments.size,
        crop=arguments.crop_around_mask,
        seed=arguments.seed,
        command=_command(arguments),
    )
    if arguments.source is None:
        print(f"downloading {PAGE} (53 MB); keep a copy and use --source to spare that")
    context = downloaded_archive() if arguments.source is None else nullcontext(arguments.source)
    with context as source:
        photographs = read_source(source)
    words = f"{content_digest(photographs)} {options.mapping}"
    digest = hashlib.sha256(words.encode()).hexdigest()
    tiles = Source([], lambda: digest, lambda work: label_tiles(photographs, options))
    recipe = mtd_recipe(options)
    prepare(tiles, recipe, arguments.out, dry_run=arguments.dry_run, force=arguments.force)


def _command(arguments: argparse.Namespace) -> str:
    """The command that makes the same data set again; paths of this machine are left out."""
    words = ["python", "data_scripts/prepare_mtd.py", "--out", "DIR"]
    words += ["--source", "ZIP_OR_FOLDER"] if arguments.source else []
    words += ["--mapping", "FILE.toml"] if arguments.mapping else []
    words += ["--size", str(arguments.size)]
    if arguments.crop_around_mask:
        words += ["--crop-around-mask", str(arguments.crop_around_mask)]
    return shlex.join([*words, "--seed", str(arguments.seed)])


if __name__ == "__main__":
    sys.exit(main())
