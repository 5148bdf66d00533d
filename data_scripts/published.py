"""Published data sets: a TOML file says where each one's files lie, what they show, its terms.

::

    name = "MVTec-AD"        # then page, licence, citation, note, flips, anchor
    images = '(?P<category>[^/]+)/(train|test)/(?P<defect>[^/]+)/(?P<stem>[^/]+)'
    masks = '(?P<category>[^/]+)/ground_truth/(?P<defect>[^/]+)/(?P<stem>[^/]+)_mask'
    [carpet]                 # a category of the source
    product = "CARPET"
    good = "Normal"          # published defect, or a pattern such as "line*" = defect
    cut = "Scratches"

Both expressions are matched against the end of a file's path, without its suffix. A group `split`
names the published split; files without a `defect` show the anchor. `labels` names a table of the
category with the columns image and label, for sources whose folders do not name the defect; the
table [every] holds for all categories, and [leave_out] names categories with the reason.

Part of prepare_mvtec.py, prepare_visa.py, prepare_wfdd.py and prepare_sdi.py.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from dtgan_core.dataset import DatasetError
from dtgan_core.files import shown
from dtgan_core.images import decoded, to_png
from dtgan_lab.data.adopt import Candidate, Listing
from dtgan_lab.data.archives import LeftOut, Tree
from dtgan_lab.data.layout import keep_apart
from dtgan_lab.data.preparing import (
    add_options,
    command_line,
    guarded,
    prepare,
    recipe_of,
    tree_source,
)
from dtgan_lab.files import read_toml
from dtgan_lab.options import Parser
from dtgan_lab.options import path as any_path

_NOTICE = ("name", "page", "licence", "citation", "note", "images", "masks", "labels", "archive")


@dataclass(frozen=True)
class Published:
    """One published data set: its notice, and category -> product, defects, or why it is left out.

    `defects` maps a published defect, or a pattern, to the kit's; others are left out.
    """

    notice: dict[str, str]
    flips: tuple[str, ...]
    anchor: str
    products: dict[str, str]
    defects: dict[str, dict[str, str]]
    leave_out: dict[str, str]

    def words(self) -> str:
        """The mapping as one line, the same for the same content."""
        return json.dumps([self.anchor, self.products, self.defects], sort_keys=True)

    def defect_of(self, category: str, published: str) -> str | None:
        """The defect of a published one, or of several that are the same to us; None: not taken."""
        found = {
            next(
                (to for name, to in self.defects[category].items() if fnmatchcase(one, name)), None
            )
            for one in map(str.strip, published.split(","))
        }
        return found.pop() if len(found) == 1 else None


def read_published(path: Path, own: Path | None = None) -> Published:
    """Read the description of a source from its TOML file; a DatasetError lists what is wrong.

    The anchor and categories of `own`, another such file, stand for those of `path`.
    """
    value = read_toml(path, "a mapping")
    if own is not None and own != path:
        fixed = {key: held for key, held in value.items() if key in (*_NOTICE, "flips")}
        fixed["leave_out"] = value.get("leave_out", {})
        value, path = read_toml(own, "a mapping") | fixed, own
    notice = {key: value.pop(key, "") for key in _NOTICE}
    flips, anchor = tuple(value.pop("flips", ())), value.pop("anchor", None)
    every, leave_out = value.pop("every", {}), value.pop("leave_out", {})
    problems = []
    if not isinstance(anchor, str):
        problems.append(f'anchor is {anchor!r}, expected a defect name, such as anchor = "Normal"')
    if not value:
        problems.append("no category, expected a table such as [carpet]")
    for category, table in value.items():
        if not isinstance(table, dict) or not all(isinstance(v, str) for v in table.values()):
            problems.append(f'{category} is {table!r}, expected lines such as cut = "Scratches"')
        elif "product" not in table:
            problems.append(f'[{category}] names no product, expected product = "NAME"')
        elif anchor not in (every | table).values():
            problems.append(f"[{category}] has no {anchor!r}, expected a folder of the anchor")
    if problems:
        raise DatasetError(f"{path}: not a usable mapping; correct the file:", {"": problems})
    products = {category: table.pop("product") for category, table in value.items()}
    defects = {category: every | table for category, table in value.items()}
    assert isinstance(anchor, str)  # checked above
    return Published(notice, flips, anchor, products, defects, leave_out)


def label_published(tree: Tree, source: Published) -> Listing:
    """Read category, defect and split off the paths, and find the mask of each defect."""
    listing, unnamed = Listing(left_out=tree.left_out), Counter[str]()
    images, masks = (re.compile(rf"(?:^|/){source.notice[key]}$") for key in ("images", "masks"))
    tables = _tables(tree, source)
    places = {name: str(PurePosixPath(name).with_suffix("")) for name in tree.readers}
    covers = {
        (m["category"], m["defect"], m["stem"]): name
        for name, place in places.items()
        if source.notice["masks"] and (m := masks.search(place))
    }
    taken = set(covers.values()) | {name for name in tree.readers if name.endswith(".csv")}
    for name in [name for name in tree.readers if name not in taken]:
        match = images.search(places[name])
        category = match["category"] if match else ""
        if not match or category not in source.products:
            told = source.leave_out.get(category) or (
                f"expected {source.notice['images']} with a category of the mapping: "
                f"{', '.join(source.products)}"
            )
            kind = "left out" if category in source.leave_out else "misplaced"
            listing.left_out.append(LeftOut(shown(name), kind, told))
            continue
        folder = match["defect"] or source.anchor
        published = tables.get((category, PurePosixPath(name).name, folder), folder)
        defect = source.defect_of(category, published)
        if defect is None:
            unnamed[f"{category}/{published}"] += 1
            reason = f"{category}/{published} is not in the mapping"
            listing.left_out.append(LeftOut(shown(name), "not mapped", reason))
            continue
        mask = covers.get((category, folder, match["stem"]), "")
        read = partial(_black_white, tree.readers[mask]) if mask else None
        split = match.groupdict().get("split") or ""
        listing.candidates.append(
            Candidate(
                name, tree.readers[name], source.products[category], defect, "", split, mask, read
            )
        )
    if not listing.candidates:
        raise DatasetError(
            f"no picture in {source.notice['images']}, expected the files of "
            f"{source.notice['page']}; give the folder that holds the categories as --source"
        )
    listing.remarks += _remarks(listing, source, unnamed)
    return listing


def _tables(tree: Tree, source: Published) -> dict[tuple[str, str, str], str]:
    """(category, file, folder) -> label, of the tables that name what folders do not."""
    found = {}
    for name in tree.readers:
        if source.notice["labels"] and PurePosixPath(name).name == source.notice["labels"]:
            category = PurePosixPath(name).parent.name
            text = tree.readers[name]().decode("utf-8-sig", errors="replace")
            rows = csv.DictReader(io.StringIO(text))
            if not {"image", "label"} <= set(rows.fieldnames or ()):
                raise DatasetError(
                    f"{shown(name)}: has the columns {rows.fieldnames}, expected image and label"
                )
            for row in rows:
                place = PurePosixPath(row["image"] or "")
                found[category, place.name, place.parent.name] = row["label"] or ""
    return found


def _black_white(read: Callable[[], bytes]) -> bytes:
    """A mask; one whose pixels hold 0 or the small number of a defect becomes black and white."""
    data = read()
    with decoded(data, "L", "mask") as mask:
        numbered = 0 < np.asarray(mask).max() < 128
        return to_png(np.asarray(mask.point([0] + [255] * 255))) if numbered else data


def _remarks(listing: Listing, source: Published, unnamed: Counter[str]) -> list[str]:
    remarks = [source.notice["note"]] if source.notice["note"] else []
    remarks += [f"left out, not in the mapping: {name}, {n} images" for name, n in unnamed.items()]
    present = {candidate.product for candidate in listing.candidates}
    missing = [name for name, product in source.products.items() if product not in present]
    if missing:
        remarks.append(f"not in the source: {', '.join(missing)}")
    bare = sum(c.read_mask is None and c.defect != source.anchor for c in listing.candidates)
    if bare and source.notice["masks"]:
        remarks.append(f"{bare} defective images have no mask")
    return remarks


# ----- the command line that these sources share


def _sources(given: Sequence[Path], source: Published) -> list[Path]:
    """A folder that holds the categories' archives stands for these archives."""
    suffix = source.notice["archive"]
    inside = {
        path: [path / f"{category}{suffix}" for category in source.products] for path in given
    }
    found = {path: [p for p in inside[path] if suffix and p.is_file()] for path in given}
    return [archive for path in given for archive in found[path] or [path]]


def published_command(
    script: str, table: Path, about: str
) -> tuple[Callable[..., argparse.Namespace], Callable[..., int]]:
    """`parse` and `main` of a source whose archives are loaded by hand; they take its words."""
    notice = read_published(table).notice

    def parse(arguments: list[str] | None = None) -> argparse.Namespace:
        parser: argparse.ArgumentParser = Parser(
            prog=f"{script}.py",
            description=about,
            epilog=f"{notice['page']}\n\n{table.name} says which published defect becomes which of "
            "the kit's, and which is\nleft out. It is our reading: edit a copy and give it by "
            f"--mapping.\n\nLicence: {notice['licence']}\nCite: {notice['citation']}\n",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument(
            "--source",
            type=any_path,
            action="append",
            required=True,
            help="an archive, a folder of archives, or an unpacked folder; may be repeated",
        )
        parser.add_argument(
            "--out", required=True, help=f"folder to write to: empty, or an older {notice['name']}"
        )
        parser.add_argument("--mapping", default=table, help=f"TOML file (default {table.name})")
        add_options(parser)
        return parser.parse_args(arguments)

    def run(options: argparse.Namespace) -> None:
        keep_apart(options.out, [*options.source, options.mapping])
        source = read_published(table, options.mapping)
        own = [] if options.mapping == table else ["--mapping", "FILE.toml"]
        words = ["--source", "SOURCE", *own]
        prepare_published(script, source, _sources(options.source, source), words, options)

    def main(arguments: list[str] | None = None) -> int:
        options = parse(arguments)
        return guarded(script, options.out, lambda: run(options))

    return parse, main


def prepare_published(
    script: str,
    source: Published,
    paths: Sequence[Path],
    words: Sequence[str],
    options: argparse.Namespace,
    check: Callable[[Listing], object] = lambda listing: None,
    **recipe: Any,
) -> None:
    """Bring a published source into the kit's layout (see `dtgan_lab.data.preparing.prepare`).

    `words` are those of the command that makes the data set again, --out and the shared options
    aside; `check` looks at what was found, and raises `DatasetError`; `recipe` is what the `Recipe`
    has besides.
    """

    def label(tree: Tree) -> Listing:
        check(listing := label_published(tree, source))
        return listing

    made = recipe_of(
        options,
        **{name: source.notice[name] for name in ("name", "licence", "citation")},
        anchor=source.anchor,
        source=source.notice["page"],
        command=command_line(script, words, options),
        flips=source.flips,
        **recipe,
    )
    also = {".csv"} if source.notice["labels"] else set()
    tree = tree_source(paths, label, source.words(), also)
    prepare(tree, made, options.out, dry_run=options.dry_run, force=options.force)
