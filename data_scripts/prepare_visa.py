r"""Bring VisA, twelve kinds of objects with masks, into the kit's layout.

Load VisA_20220922.tar (1.9 GB) from the address that the page names.

    python data_scripts/prepare_visa.py --source VisA_20220922.tar --out build/data/visa --dry-run
    python data_scripts/prepare_visa.py --source VisA_20220922.tar --out build/data/visa \
        --size 64 --fit letterbox
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs without an installation

from published import published_command

MAPPING = Path(__file__).resolve().with_name("visa.toml")
parse, main = published_command("prepare_visa", MAPPING, __doc__ or "")

if __name__ == "__main__":
    sys.exit(main())
