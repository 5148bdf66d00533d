"""What the scripts that bring foreign pictures into the kit's layout have in common.

A script knows its source and its words; `prepare` does the rest: nothing is written twice, nothing
half, and everything that is left out is listed.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import shlex
import shutil
import sys
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from dtgan_core.dataset import DatasetError
from dtgan_core.files import read_json
from dtgan_lab.data import Dataset, load_dataset
from dtgan_lab.data.adopt import FITS, Listing, Recipe, Source, adopt, check_labels
from dtgan_lab.data.adopt_plan import Plan, make_plan, write_plan
from dtgan_lab.data.archives import LeftOut, Tree, read_tree, source_digest
from dtgan_lab.data.dataset import INFO_NAME
from dtgan_lab.data.layout import (
    LEFT_OUT_NAME,
    STAGING_NAME,
    keep_apart,
    require_place,
    staged_dataset,
)
from dtgan_lab.files import cell, disk_is_full
from dtgan_lab.options import whole

_SHOWN_PER_KIND = 20


def tree_source(
    paths: Sequence[Path],
    label: Callable[[Tree], Listing],
    words: str = "",
    also: Collection[str] = (),
) -> Source:
    """Folders and archives whose file names tell what a picture shows.

    `label` makes candidates of the files; `words` is what else decides the labels; `also` are
    suffixes that `label` takes besides those of images.
    """

    def digest() -> str:
        files = source_digest(paths, also)
        return hashlib.sha256(f"{files} {words}".encode()).hexdigest() if words else files

    return Source(paths, digest, lambda work: label(read_tree(paths, work, also)))


def prepare(
    source: Source,
    recipe: Recipe,
    out: Path,
    *,
    dry_run: bool = False,
    force: bool = False,
    look: Callable[[Plan], object] = lambda plan: None,
) -> Dataset | None:
    """Bring a source into the kit's layout, print what became of it; None: it was a dry run.

    The digest of the source is added to the recipe's `source`. `dry_run` prints the counts and what
    is left out, and shows its plan to `look` while the pictures are there; `force` replaces a data
    set that was made of another source or with other options. DatasetError: see `make_plan`; or
    `out` holds something else. OSError: the disk is full. `out` stays as it was.
    """
    keep_apart(out, source.paths)
    recipe = replace(recipe, source=f"{recipe.source} (content sha256 {source.digest()})")
    if not dry_run and not force and (there := _there(out, recipe)):
        print(f"{out}: is there already, of the same source and options; nothing to do")
        return there
    with ExitStack() as stack:
        place = out
        if dry_run:
            place = Path(stack.enter_context(TemporaryDirectory(prefix="dtgan-")), out.name)
        staging = stack.enter_context(staged_dataset(place, recipe.name))
        work, spool = staging / ".work", staging / ".spool"  # removed with the staging folder
        work.mkdir()
        spool.mkdir()
        plan = _planned(source, recipe, work, spool)
        _tell(plan, every=dry_run)
        if dry_run:
            look(plan)
        write_plan(plan, staging)
        if plan.left_out:
            table = pd.DataFrame(plan.left_out, columns=list(LeftOut._fields)).map(cell)
            table.to_csv(staging / LEFT_OUT_NAME, index=False, lineterminator="\n")
    if dry_run:
        print(f"dry run: nothing written to {out}")
        return None
    if plan.left_out:
        print(f"{out / LEFT_OUT_NAME}: the {len(plan.left_out)} files left out, with reasons")
    dataset = load_dataset(out, check="full")
    for warning in dataset.warnings:
        print(f"note: {warning}")
    print(f"{out}: {len(dataset.manifest):,} images, every file checked")
    return dataset


def _there(out: Path, recipe: Recipe) -> Dataset | None:
    """What `out` holds, if that is what would be written."""
    try:
        found = read_json(out / INFO_NAME)
        if found["name"] != recipe.name:
            return None
        changed = [key for key in ("source", "command") if found[key] != getattr(recipe, key)]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # nothing to be kept, or not ours: `staged_dataset` decides
    if changed:
        changes = "\n".join(
            f"- {key}: found {found[key]!r}, now {getattr(recipe, key)!r}" for key in changed
        )
        raise DatasetError(
            f"{out}: holds {recipe.name!r}, made of another source or with other options; replace "
            f"it with --force, or choose another --out:\n{changes}"
        )
    try:
        dataset = load_dataset(out, check="full")
    except DatasetError as error:
        print(f"note: {out} is damaged and made again; {error}")
        return None
    shutil.rmtree(out / STAGING_NAME, ignore_errors=True)  # of a later run that was killed
    return dataset


def _planned(source: Source, recipe: Recipe, work: Path, spool: Path) -> Plan:
    listing = source.listing(work)
    check_labels(listing)
    pictures = adopt(listing, recipe, spool)
    try:
        return make_plan(pictures, listing, recipe)
    except DatasetError:
        _tell_left_out(listing.left_out, every=False)  # the cause may stand here
        raise


def _tell(plan: Plan, every: bool) -> None:
    print(plan.table())
    _tell_left_out(plan.left_out, every)
    for remark in plan.remarks:
        print(f"note: {remark}")
    print(f"licence: {plan.recipe.licence}\ncite: {plan.recipe.citation}")


def _tell_left_out(left_out: list[LeftOut], every: bool) -> None:
    kinds: dict[str, list[LeftOut]] = {}
    for item in left_out:
        kinds.setdefault(item.kind, []).append(item)
    for kind, items in kinds.items():
        print(f"left out, {kind}: {len(items)}")
        limit = len(items) if every else _SHOWN_PER_KIND
        for item in items[:limit]:
            print(f"- {item.name}: {item.reason}")
        if len(items) > limit:
            print(f"- ... and {len(items) - limit} more")


# ----- command lines


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that all scripts share."""
    parser.add_argument("--size", default=128, help="side of the images in pixels (default 128)")
    parser.add_argument(
        "--fit",
        choices=FITS,
        default="squash",
        help="pictures that are not square: change their aspect ratio (squash, default; what "
        "generate does too), cut the overhang (crop), or add borders (letterbox)",
    )
    parser.add_argument(
        "--channels", type=whole(1, 3), choices=(1, 3), default=1, help="1 grey (default), 3 colour"
    )
    parser.add_argument("--seed", default=0, help="of the splits (default 0)")
    parser.add_argument(
        "--allow-few",
        action="store_true",
        help="leave defects with too few images out, instead of refusing",
    )
    add_runs(parser)


def add_runs(parser: argparse.ArgumentParser) -> None:
    """Add what says whether a data set is written."""
    parser.add_argument("--dry-run", action="store_true", help="report, write nothing")
    parser.add_argument(
        "--force",
        action="store_true",
        help="replace a data set in --out that was made of another source or with other options",
    )


def recipe_of(options: argparse.Namespace, **own: Any) -> Recipe:
    """What shall become of the pictures, by the shared options and a script's own words."""
    shared = ("size", "channels", "fit", "seed", "allow_few")
    return Recipe(**{name: getattr(options, name) for name in shared}, **own)


def command_line(script: str, words: Sequence[str], options: argparse.Namespace) -> str:
    """The command that makes the same data set again; paths of this machine are left out."""
    line = ["python", f"data_scripts/{script}.py", *words, "--out", "DIR"]
    line += ["--size", str(options.size), "--fit", options.fit]
    line += ["--channels", str(options.channels), "--seed", str(options.seed)]
    return shlex.join(line + (["--allow-few"] if options.allow_few else []))


def guarded(script: str, out: Path, work: Callable[[], None], failed: int = 1) -> int:
    """Run a script's work; what is to be expected ends with a message, not with a traceback.

    Returns the exit status, `failed` for bad input and a full disk.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name must not break an old terminal
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        require_place(out)
        work()
    except ValueError as error:  # DatasetError and ImageError among them
        print(f"{script}: {error}", file=sys.stderr)
    except OSError as error:
        message: object = error
        if disk_is_full(error):
            error.filename = error.filename or str(out)  # a full disk does not say where it is
            message = f"the disk is full ({error}); free some space or choose another --out"
        print(f"{script}: {message}", file=sys.stderr)
        print(
            f"What stood in {out} before is still there; nothing half-written is.", file=sys.stderr
        )
    except KeyboardInterrupt:
        print(f"{script}: stopped; what stood in {out} before is still there", file=sys.stderr)
        return 130
    else:
        return 0
    return failed
