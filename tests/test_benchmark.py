"""tools/benchmark.py: every number that it names, finite and in keeping with the others."""

import json
import math

import pytest
import torch

from tools import benchmark

CPU = torch.device("cpu")


def test_json_has_every_number(capsys, monkeypatch):
    monkeypatch.setattr(benchmark, "convolution_gflops", lambda *_: 2.0)  # has a test of its own
    options = ["--preset", "tiny", "--ablation", "f", "--against", "a", "--rounds", "1"]
    assert benchmark.main([*options, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["preset"], report["ablation"], report["batch"]) == ("tiny", "f", 4)
    assert report["hardware"]["torch"] == torch.__version__
    numbers = {name: report[name] for name in benchmark.MEANING if name != "launches"}
    assert all(value > 0 and math.isfinite(value) for value in numbers.values()), numbers
    assert report["train_images_per_s"] == report["batch"] / report["iteration_s"]
    share = report["iteration_gflop"] / report["iteration_s"] / 2.0
    assert report["best_rate_share"] == pytest.approx(share)


def test_the_table_says_what_each_number_means(capsys, monkeypatch):
    monkeypatch.setattr(benchmark, "convolution_gflops", lambda *_: 2.0)
    assert benchmark.main(["--preset", "tiny", "--rounds", "1"]) == 0
    shown = capsys.readouterr().out
    for name in ("iteration_s", "train_images_per_s", "images_per_s", "style_to_image_ms"):
        assert f"\n{name} " in shown and benchmark.MEANING[name] in shown


def test_convolution_rate_is_operations_over_the_fastest_call(monkeypatch):
    monkeypatch.setattr(benchmark, "seconds_of", lambda work, device: 0.5)
    largest = 3 * 2 * 9 * 8 * 256 * 256 * 32 * 32  # forward, to the picture, to the weights
    smaller = 3 * 2 * 9 * 8 * 128 * 128 * 64 * 64
    rate = benchmark.convolution_gflops(torch.float32, CPU)
    assert rate == max(largest, smaller) / 1e9 / 0.5


def test_no_rounds_are_refused(capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["--rounds", "0"])
    assert "--rounds is 0; expected at least 1" in capsys.readouterr().err
