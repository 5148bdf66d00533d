"""Rows of results: whole or not at all, whoever else is writing."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import pytest

from dtgan_core.evaluation.results import append_result, read_results


def test_rows_come_back_in_order_with_their_time(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "results.jsonl"
    append_result(path, {"FD (domain)": 1.5, "config": {"train": {"seeds": (1, 2)}}})
    append_result(path, {"FD (domain)": math.nan, "more": "words"})
    table = read_results(path)
    assert table["FD (domain)"].tolist()[0] == 1.5 and table["FD (domain)"].isna().tolist()[1]
    assert table["config"][0] == {"train": {"seeds": [1, 2]}}
    assert all(datetime.fromisoformat(text).tzinfo is not None for text in table["written"])
    assert json.loads(path.read_text().splitlines()[1])["FD (domain)"] is None


def test_many_writers_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: append_result(path, {"n": n}), range(24)))
    assert sorted(read_results(path)["n"]) == list(range(24))
    assert [p.name for p in tmp_path.iterdir()] == ["results.jsonl"]


def test_a_row_that_is_no_json_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    append_result(path, {"n": 1})
    before = path.read_bytes()
    with pytest.raises(ValueError, match="cannot become JSON"):
        append_result(path, {"n": object()})
    assert path.read_bytes() == before


def test_damaged_files_are_told(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    with pytest.raises(ValueError, match="no such file"):
        read_results(path)
    path.write_text('{"n": 1}\n{"n":')
    with pytest.raises(ValueError, match="half a line"):
        append_result(path, {"n": 2})
    with pytest.raises(ValueError, match="line 2 is no JSON"):
        read_results(path)
    path.write_text("[1]\n")
    with pytest.raises(ValueError, match="line 1 is no JSON object"):
        read_results(path)
