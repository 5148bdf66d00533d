"""Rows of results: whole or not at all, whoever else is writing."""

import json
import math
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest

from dtgan_lab.measure.results import append_result, read_results


def test_rows_come_back_in_order_and_what_a_killed_writer_left_goes(tmp_path):
    path = tmp_path / "rows.jsonl"
    left, other = tmp_path / ".rows.jsonl.x1.tmp", tmp_path / ".others.jsonl.x2.tmp"
    for file in (left, other):
        file.write_bytes(b"half")
    append_result(path, {"n": 1})
    assert sorted(tmp_path.iterdir()) == [other, path]
    path = tmp_path / "deep" / "results.jsonl"
    append_result(path, {"FD (domain)": 1.5, "config": {"train": {"seeds": (1, 2)}}})
    append_result(path, {"FD (domain)": math.nan, "more": "words"})
    table = read_results(path)
    assert table["FD (domain)"].tolist()[0] == 1.5 and table["FD (domain)"].isna().tolist()[1]
    assert table["config"][0] == {"train": {"seeds": [1, 2]}}
    assert all(datetime.fromisoformat(text).tzinfo is not None for text in table["written"])
    assert json.loads(path.read_text().splitlines()[1])["FD (domain)"] is None


def test_many_writers_lose_nothing(tmp_path):
    path = tmp_path / "results.jsonl"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: append_result(path, {"n": n}), range(24)))
    assert sorted(read_results(path)["n"]) == list(range(24))
    assert [p.name for p in tmp_path.iterdir()] == ["results.jsonl"]
    before = path.read_bytes()
    with pytest.raises(ValueError, match="cannot become JSON"):
        append_result(path, {"n": object()})
    assert path.read_bytes() == before


def test_damaged_files_are_told(tmp_path):
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
    path.write_bytes(b'{"n": 1}\n\xff\0\n')
    with pytest.raises(ValueError, match=r"results\.jsonl: line 2 is no JSON"):
        read_results(path)
