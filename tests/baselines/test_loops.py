"""All trained baselines in the loop: they learn, log, average, save, and resume to the byte."""

import dataclasses
import multiprocessing
import signal
from typing import Any

import numpy as np
import pytest
import torch

from dtgan_core.checkpoints import CheckpointError, read_json
from dtgan_lab.baselines.zoo import baseline
from tests.baselines.baseline_fixtures import METHODS, store_of, tiny_loop, train_until_killed
from tests.core_fixtures import SIZE, latest_step, same, snapshot

EVERYTHING = ("networks.safetensors", "ema.safetensors", "optimisers.safetensors", "state.json")
SHORT: dict[str, Any] = {"iterations": 4, "checkpoint_every": 2, "sample_every": 4}


def without_seconds(state: Any) -> Any:
    del state["sha256"]["state"]
    return {name: value for name, value in state.items() if name != "seconds"}


@pytest.mark.parametrize("method", METHODS)
def test_an_iteration_moves_every_network_and_the_average_follows(method):
    loop = tiny_loop(method)
    start = snapshot(loop.ema)
    before = {name: snapshot(module) for name, module in loop.nets.named_children()}
    assert all(value.isfinite() and not value.requires_grad for value in loop.step().values())
    for name, module in loop.nets.named_children():
        assert not same(before[name], snapshot(module)), name
    assert all(p.grad is None and p.requires_grad for p in loop.nets.parameters())
    assert loop.step_count == 1
    assert {name.split(".")[0] for name in loop.ema.state_dict()} == set(loop.exported)
    learned = snapshot(loop.nets)
    for name, value in loop.ema.named_parameters():  # decay 1/10 in the first step
        assert torch.allclose(value, 0.1 * start[name] + 0.9 * learned[name], atol=1e-6), name
    for name, value in loop.ema.named_buffers():
        assert torch.equal(value, loop.nets.get_buffer(name)), name


@pytest.mark.parametrize("method", METHODS)
def test_a_seed_decides_every_byte_and_pictures_none(method):
    loop, other, another = (tiny_loop(method, train={"seed": seed}) for seed in (0, 0, 1))
    for step in range(2):
        for each in (loop, other, another):
            each.step()
        picture = loop.sample_picture()
        assert picture.dtype == np.uint8 and picture.shape[2] == 3
        assert picture.shape[0] > SIZE
        assert np.array_equal(picture, loop.sample_picture()), step
    assert same(snapshot(loop.nets), snapshot(other.nets))
    assert same(snapshot(loop.ema), snapshot(other.ema))
    assert not same(snapshot(loop.nets), snapshot(another.nets))


# --- kill -9 and resume --------------------------------------------------------------------------

KILLED = [
    ("stylegan2", {"augment": {"kind": "ada", "target": -1.0, "ramp": 40}}),
    ("biggan", {"augment": {"kind": "diffaugment"}}),
    ("mokady", {}),
]


@pytest.mark.parametrize(("method", "groups"), KILLED)
def test_a_killed_run_ends_in_the_same_bytes(method, groups, tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        groups = {**groups, "train": SHORT}
        tiny_loop(method, tmp_path / "whole", **groups).run(progress=False)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.baselines.baseline_fixtures"])
        process = context.Process(
            target=train_until_killed, args=(method, str(tmp_path / "killed"), 4, groups)
        )
        process.start()
        process.join(300)
        assert process.exitcode == -signal.SIGKILL
        resumed = tiny_loop(method, tmp_path / "killed", **groups)
        resumed.resume()
        assert resumed.step_count == 2
        resumed.run(progress=False)
    finally:
        torch.set_num_threads(threads)
    whole, killed = (latest_step(tmp_path / name) for name in ("whole", "killed"))
    assert whole.name == killed.name == "step-00000004"
    for name in EVERYTHING[:3]:
        assert (whole / name).read_bytes() == (killed / name).read_bytes(), name
    states = [without_seconds(read_json(folder / "state.json")) for folder in (whole, killed)]
    assert states[0] == states[1]
    picture = "samples/step-00000004.png"
    pictures = [(tmp_path / name / picture).read_bytes() for name in ("whole", "killed")]
    assert pictures[0] == pictures[1]


def test_resume_by_another_method_is_refused(tmp_path):
    tiny_loop("biggan", tmp_path, train={"iterations": 1}).run(progress=False)
    with pytest.raises(
        CheckpointError, match="'biggan', expected 'stylegan2'; resume with the same arguments"
    ):
        tiny_loop("stylegan2", tmp_path).resume()


# --- sizes ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", METHODS)
def test_a_laptop_export_weighs_little(method, tmp_path):
    found = baseline(method)
    store = store_of(method)
    big = store.images.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    loop = found(found.presets["laptop"], dataclasses.replace(store, images=big))
    loop.export(tmp_path)
    assert (tmp_path / "ema.safetensors").stat().st_size <= 5_000_000


def test_settings_of_dtgan_alone_are_refused():
    with pytest.raises(ValueError, match=r"train\.guidance is DT-GAN's alone"):
        tiny_loop("biggan", train={"guidance": "both"})
    with pytest.raises(ValueError, match="kernels is compiled"):
        tiny_loop("biggan", train={"kernels": "compiled"})
    with pytest.raises(ValueError, match=r"augment\.kind is 'cutmix'"):
        tiny_loop("biggan", augment={"kind": "cutmix"})
    with pytest.raises(ValueError, match="even number"):
        tiny_loop("mokady", train={"batch_size": 3})
