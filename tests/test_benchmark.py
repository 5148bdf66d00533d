from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from dtgan_core.config import make_config
from dtgan_core.layers import AdaIN
from dtgan_core.training import Trainer
from dtgan_lab import benchmark, floor
from dtgan_lab.benchmark import Phase, made_up_store, phases, record, table
from dtgan_lab.cli.main import main
from dtgan_lab.floor import Floor, Recorder, Shape, best_seconds, convolution_gflops
from dtgan_lab.plain import PlainTrainer
from tests.core_fixtures import failure

aten = torch.ops.aten
CPU = torch.device("cpu")
NUMBERS = (
    "repeats",
    "iteration_gflop",
    "iteration_gflops",
    "floor_s",
    "iteration_s",
    "overhead_factor",
    "plain_iteration_s",
    "speedup_vs_plain",
    "peak_memory_mib",
    "images_per_s",
    "images_per_s_with_png",
)


def tiny_trainer(ablation: str = "e", **train: Any) -> Trainer:
    config = make_config("tiny", ablation, train={"precision": "fp32", **train})
    return Trainer(config, made_up_store(config))


# --- which iterations ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("guidance", "r1_every", "expected"),
    [
        ("both", 1, [Phase(0, 1.0)]),
        ("both", 4, [Phase(0, 0.25), Phase(1, 0.75)]),
        ("alternate", 1, [Phase(0, 0.5), Phase(1, 0.5)]),
        ("alternate", 8, [Phase(0, 1 / 8), Phase(1, 1 / 2), Phase(2, 3 / 8)]),
        ("alternate", 3, [Phase(0, 1 / 6), Phase(1, 1 / 3), Phase(2, 1 / 3), Phase(3, 1 / 6)]),
    ],
)
def test_phases(guidance: str, r1_every: int, expected: list[Phase]) -> None:
    assert phases(tiny_trainer(guidance=guidance, r1_every=r1_every)) == expected


# --- what an iteration multiplies ----------------------------------------------------------------


def test_recorder_notes_products_with_their_layout_and_mask() -> None:
    x = torch.randn(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    w = torch.randn(5, 3, 3, 3, requires_grad=True)
    with Recorder() as recorder:
        F.conv2d(x, w, stride=2, padding=1).sum().backward()
        recorder.share = 0.5
        F.conv2d(x, w.detach(), stride=2, padding=1)
        F.linear(torch.ones(2, 3), torch.ones(4, 3), torch.ones(4))
    forward, backward, linear = recorder.calls
    assert [recorder.calls[call] for call in (forward, backward, linear)] == [1.5, 1.0, 0.5]
    assert forward.operator is aten.convolution.default
    assert forward.arguments[0] == Shape((2, 3, 8, 8), (192, 1, 24, 3), torch.float32)
    assert forward.arguments[3:5] == ((2, 2), (1, 1))
    assert backward.operator is aten.convolution_backward.default
    assert backward.arguments[-1] == (False, True, False)  # x asks for no gradient, w has no bias
    assert linear.operator is aten.addmm.default
    one_forward = 2 * (2 * 4 * 4) * 5 * (3 * 9)
    assert recorder.flops == 1.5 * one_forward + one_forward + 0.5 * 2 * (2 * 3 * 4)


def test_sums_over_pixels_are_no_products() -> None:
    """Instance norm adds up by `bmm`: that is overhead; a real batched product counts."""
    norm = AdaIN(4, 8)
    with Recorder() as recorder:
        norm(torch.randn(2, 8, 16, 16), torch.randn(2, 4)).sum().backward()
    assert {call.operator for call in recorder.calls} == {aten.addmm.default, aten.mm.default}
    with Recorder() as recorder:
        torch.bmm(torch.ones(2, 3, 4), torch.ones(2, 4, 5))
    assert [call.operator for call in recorder.calls] == [aten.bmm.default]


@pytest.mark.parametrize("letter", ["a", "e"])
@pytest.mark.parametrize("path", ["fast", "plain"])
def test_flops_are_pytorchs_count(letter: str, path: str) -> None:
    """In an iteration without R1, where FlopCounterMode works; nothing is missed or added."""
    trainer = tiny_trainer(letter, guidance="both", r1_every=4)
    steps = trainer if path == "fast" else PlainTrainer(trainer)
    steps.step_count = 1
    with FlopCounterMode(display=False) as counter, Recorder() as recorder:
        steps.step()
    counts = counter.get_flop_counts()["Global"]
    sums = counts.get(aten.bmm, 0)
    assert recorder.flops == counter.get_total_flops() - sums
    assert (sums > 0) == (path == "fast")  # no path has a batched product of its own
    assert sum(recorder.calls.values()) > 100


def test_the_double_backward_of_r1_is_counted() -> None:
    """R1 runs D forward, back to the image, and back from there: at least four times D's products.

    Six with PyTorch's leaky ReLU, whose double backward sends zeros through the forward's graph.
    """
    with_r1, without = (
        record(tiny_trainer("a", guidance="both", r1_every=every), [Phase(1, 1.0)]).flops
        for every in (1, 2)
    )
    trainer = tiny_trainer("a")
    with Recorder() as forward:
        trainer.nets.D(trainer.store.to_float(torch.arange(trainer.config.train.batch_size)))
    ways = 2  # of guidance
    assert 3.5 * ways * forward.flops < with_r1 - without < 6.1 * ways * forward.flops


def test_record_is_the_average_iteration() -> None:
    trainer = tiny_trainer(r1_every=1)
    latent, reference = (record(trainer, [Phase(step, 1.0)]) for step in (0, 1))
    average = record(trainer, phases(trainer))
    assert average.flops == pytest.approx((latent.flops + reference.flops) / 2)
    total = sum(average.calls.values())
    assert total == (sum(latent.calls.values()) + sum(reference.calls.values())) / 2


def test_bf16_products_are_recorded_as_bf16() -> None:
    recorder = record(tiny_trainer(precision="bf16"), [Phase(1, 1.0)])  # no R1
    convolutions = [c for c in recorder.calls if c.operator is aten.convolution.default]
    assert convolutions
    assert {call.arguments[0].dtype for call in convolutions} == {torch.bfloat16}


# --- the floor -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(2, 3, 4, 5),
        torch.ones(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        torch.ones(2, 6, 4, 5)[:, 2:5],
        torch.ones(1, 1, 7).expand(3, 1, 7),
        torch.ones(4, 3, dtype=torch.bfloat16).t(),
    ],
)
def test_shapes_are_filled_as_they_lay(tensor: torch.Tensor) -> None:
    shape = Shape(tuple(tensor.shape), tensor.stride(), tensor.dtype)
    filled = shape.fill(CPU)
    assert (filled.shape, filled.stride(), filled.dtype) == (
        tensor.shape,
        tensor.stride(),
        tensor.dtype,
    )
    assert filled.isfinite().all() and filled.float().std() > 0
    if tensor.dim() == 4:
        assert shape.channels_last().fill(CPU).is_contiguous(memory_format=torch.channels_last)


def test_floor_adds_the_best_time_of_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = torch.randn(2, 4, 8, 8), torch.randn(4, 4, 3, 3)
    with Recorder() as recorder:
        for _ in range(3):
            F.conv2d(x, w)
        torch.mm(x[0, 0], x[0, 1])
    # One time a layout: the convolution as it was (contiguous), in channels_last, the product.
    times = iter([5.0, 4.0, 10.0, 7.0, 4.5, 9.0])
    monkeypatch.setattr(floor, "best_seconds", lambda *_: next(times))
    least = Floor(recorder, CPU)
    least.improve()
    assert least.seconds() == 3 * 4.0 + 10.0
    least.improve()
    assert least.seconds() == 3 * 4.0 + 9.0


def test_every_recorded_call_can_be_timed() -> None:
    trainer = tiny_trainer("e")
    least = Floor(record(trainer, phases(trainer)), CPU)
    least.improve()
    assert len(least.best) == len(least.calls) > 50
    assert 0 < least.seconds() < math.inf


def test_best_seconds_is_the_least_and_leaves_out_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = iter([0.1, 3.0, 2.0, 4.0])
    monkeypatch.setattr(floor, "seconds_of", lambda *_: next(times))
    assert best_seconds(lambda: None, CPU, 6.0) == 2.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_convolution_rate(dtype: torch.dtype) -> None:
    assert convolution_gflops(dtype, CPU, seconds=0.0) > 0.01


# --- the command ---------------------------------------------------------------------------------


def numbers(report: dict[str, Any]) -> list[float]:
    rates, style = report["convolution_gflops"], report["style_to_image_ms"]
    assert set(rates) == {"fp32", "bf16"} and set(style) == {"median", "p95"}
    return [*(report[name] for name in NUMBERS), *rates.values(), *style.values()]


@pytest.mark.parametrize("arguments", [["--dtype", "fp32"], ["--dtype", "bf16", "--ablation", "a"]])
def test_json(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "convolution_gflops", lambda *_: 1.0)  # has a test of its own
    options = ["--preset", "tiny", "--batch", "2", "--repeats", "1", "--device", "cpu", "--json"]
    assert main(["benchmark", *options, *arguments]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["preset"], report["batch"], report["image_size"]) == ("tiny", 2, 32)
    assert report["dtype"] == arguments[1]
    assert report["ablation"] == ("a" if "a" in arguments else "e")
    assert all(value > 0 and math.isfinite(value) for value in numbers(report))
    assert report["hardware"]["device"] and report["hardware"]["torch"] == torch.__version__
    assert report["hardware"]["threads"] == torch.get_num_threads()
    assert report["overhead_factor"] == report["iteration_s"] / report["floor_s"]
    assert report["speedup_vs_plain"] == report["plain_iteration_s"] / report["iteration_s"]
    assert report["style_to_image_ms"]["p95"] >= report["style_to_image_ms"]["median"]
    shown = table(report)
    assert all(name in shown for name in NUMBERS[1:])
    assert report["hardware"]["device"] in shown and report["dtype"] in shown


def test_help_says_what_every_number_means(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["benchmark", "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for name in (*NUMBERS[1:], "convolution_gflops", "style_to_image_ms"):
        assert f"\n  {name} " in text, name


def test_the_time_limit_ends_the_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "convolution_gflops", lambda *_: 1.0)
    monkeypatch.setattr(benchmark, "_measure_generation", lambda *_: {})
    config = tiny_trainer().config
    assert benchmark.measure(config, CPU, repeats=50, time_limit_s=0.0)["repeats"] == 1


def test_bad_options_end_with_a_message(capsys: pytest.CaptureFixture[str]) -> None:
    told = failure(capsys, "benchmark", "--preset", "tiny", "--repeats", "0")
    assert "--repeats: found '0', expected a whole number from 1" in told
    assert main(["benchmark", "--preset", "tiny", "--image-size", "48"]) == 2
    assert "power of two" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="needs Linux's /proc")
def test_peak_memory_is_in_mebibytes() -> None:
    kept = torch.ones(2**24)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    now = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    peak = benchmark.peak_memory_mib(CPU)
    assert peak is not None and len(kept) * 4 / 2**20 < now * 0.99 <= peak < 50 * now
