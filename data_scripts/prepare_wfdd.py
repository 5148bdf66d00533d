"""Bring the woven fabrics of WFDD (grey, grid and yellow cloth) into the kit's layout.

Load the archive from the address that the page names. Its fourth fabric, pink_flower, is left out:
it comes from a set of others, whose terms do not go with the licence of WFDD.

    python data_scripts/prepare_wfdd.py --source WFDD.zip --out build/data/wfdd --dry-run
    python data_scripts/prepare_wfdd.py --source WFDD.zip --out build/data/wfdd --size 64
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs without an installation

from published import published_command

MAPPING = Path(__file__).resolve().with_name("wfdd.toml")
parse, main = published_command("prepare_wfdd", MAPPING, __doc__ or "")

if __name__ == "__main__":
    sys.exit(main())
