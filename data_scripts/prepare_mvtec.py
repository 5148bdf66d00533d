r"""Bring the textures of MVTec AD (carpet, leather, tile, wood) into the kit's layout.

Load the archives of the categories (carpet.tar.xz, leather.tar.xz, tile.tar.xz, wood.tar.xz, or
the archive of all) with a browser: the page asks you to accept its terms.

    python data_scripts/prepare_mvtec.py --source downloads/ --out build/data/mvtec --dry-run
    python data_scripts/prepare_mvtec.py --source carpet.tar.xz --source wood.tar.xz \
        --out build/data/mvtec --size 64
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs without an installation

from published import published_command

MAPPING = Path(__file__).resolve().with_name("mvtec.toml")
parse, main = published_command("prepare_mvtec", MAPPING, __doc__ or "")

if __name__ == "__main__":
    sys.exit(main())
