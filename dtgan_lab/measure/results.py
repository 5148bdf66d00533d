"""Results as JSON lines: each command adds a row, notebooks read them all.

    append_result(Path("results/distances.jsonl"), {"FD (domain)": 3.2, ...})
    table = read_results(Path("results/distances.jsonl"))

A row is worth as much as what it says of its origin: hashes of data, weights and features.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from dtgan_core.files import clear_temporary, write_atomic
from dtgan_lab.files import locked, read_json_lines

WRITTEN = "written"


def append_result(path: Path, row: Mapping[str, Any]) -> None:
    """Add one row to a file of results, whole or not at all, whoever else is writing.

    The folder is locked while the file is read and replaced. NaN and infinity become null, the time
    (UTC) is added as "written". Give a row what makes the number again: the configuration, and the
    hashes of manifest, checkpoint and features. ValueError: JSON cannot hold the row, or the file
    ends in half a line.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        text = json.dumps({WRITTEN: now, **_plain(row)}, allow_nan=False)
    except TypeError as error:
        raise ValueError(f"{path}: the row cannot become JSON ({error})") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.parent):
        before = path.read_bytes() if path.is_file() else b""
        if before and not before.endswith(b"\n"):
            raise ValueError(
                f"{path}: ends in half a line, expected whole lines of JSON; remove that line"
            )
        clear_temporary(path.parent, name=path.name)  # of a writer that was killed
        write_atomic(path, before + text.encode() + b"\n")


def _plain(value: Any) -> Any:
    """Mappings and lists through and through, floats that JSON lacks as None."""
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def read_results(path: Path) -> pd.DataFrame:
    """All rows, oldest first; a column that a row lacks is NaN. ValueError: no file of rows."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected rows written by an `evaluate --results`")
    return pd.DataFrame(read_json_lines(path, "remove it"))


def records(table: pd.DataFrame) -> list[dict[Any, Any]]:
    """The rows of a table as JSON has them: null for what is not defined."""
    return table.astype(object).where(table.notna(), None).to_dict(orient="records")
