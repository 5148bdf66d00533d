#!/usr/bin/env python
"""Write the synthetic SDI, a procedural look-alike of the data set of the DT-GAN paper.

    python data_scripts/make_synthetic_sdi.py --out data/synthetic-sdi
    python data_scripts/make_synthetic_sdi.py --out data/more --fresh 500 --product A --defect Spots

The same options give the same bytes. A second run checks what is there and keeps it.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # works without an installation

from dtgan_lab.data.preparing import guarded
from dtgan_lab.data.synthetic.sdi import DEFECTS, MAX_POOL, MAX_SEED, PRODUCTS, make_synthetic_sdi
from dtgan_lab.options import Parser, number, whole


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser: argparse.ArgumentParser = Parser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, help="folder of the data set")
    seed, pool, fresh = whole(0, MAX_SEED - 1), whole(0, MAX_POOL), whole(0, 100_000)
    parser.add_argument("--seed", type=seed, default=0, help="another seed, other images (0)")
    parser.add_argument(
        "--scale", type=number(0, 1), default=1.0, help="part of each class, for trials (1.0)"
    )
    parser.add_argument(
        "--with-classifier-pool",
        type=pool,
        nargs="?",
        const=MAX_POOL,
        default=0,
        metavar="N",
        help=f"add N Normal images per product as split 'pool' (N: {MAX_POOL} at most)",
    )
    parser.add_argument(
        "--fresh", type=fresh, default=0, metavar="N", help="N images per class as split 'fresh'"
    )
    parser.add_argument(
        "--product", action="append", choices=PRODUCTS, help="fresh images of this product only"
    )
    parser.add_argument(
        "--defect", action="append", choices=DEFECTS, help="fresh images of this defect only"
    )
    parser.add_argument("--workers", help="processes (one per core, 8 at most)")
    options = parser.parse_args(arguments)
    if (options.product or options.defect) and not options.fresh:
        parser.error("--product and --defect choose the classes of --fresh N; add --fresh N")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = parse(arguments)
    return guarded("make_synthetic_sdi", options.out, lambda: _run(options), failed=2)


def _run(options: argparse.Namespace) -> None:
    start = time.monotonic()
    dataset = make_synthetic_sdi(
        options.out,
        options.seed,
        options.scale,
        pool=options.with_classifier_pool,
        fresh=options.fresh,
        products=tuple(sorted(set(options.product or PRODUCTS))),
        defects=tuple(sorted(set(options.defect or DEFECTS))),
        workers=options.workers,
    )
    print(dataset.counts().to_string())
    total = len(dataset.manifest)
    print(f"{total:,} images in {options.out} ({time.monotonic() - start:.0f} s)")


if __name__ == "__main__":
    sys.exit(main())
