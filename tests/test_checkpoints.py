import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dtgan_core import checkpoints
from dtgan_core.checkpoints import (
    CheckpointError,
    load_module,
    load_optimiser,
    optimiser_tensors,
    read_json,
    read_tensors,
    save_step,
    step_folders,
    write_export,
    write_tensors,
)
from dtgan_core.files import sha256_of
from tests.core_fixtures import latest_step


def save_number(run: Path, step: int) -> Path:
    """A checkpoint that holds its own step number."""
    number = {"n": torch.tensor(float(step))}
    files = {"networks": number, "ema": {"n": torch.tensor([step])}, "optimisers": number}
    return save_step(run, step, files, {"seconds": step / 2})


def number_in(folder: Path) -> int:
    """The step number that a whole folder holds, the same in all of its files."""
    found = {
        int(read_tensors(folder / "networks.safetensors")["n"]),
        int(read_tensors(folder / "ema.safetensors")["n"]),
        int(read_json(folder / "state.json")["step"]),
        int(folder.name.removeprefix("step-")),
    }
    assert len(found) == 1, found
    return found.pop()


# --- files ---------------------------------------------------------------------------------------
def test_tensors_come_back_whatever_their_memory_format(tmp_path):
    weight = torch.arange(2 * 3 * 4 * 5.0).view(2, 3, 4, 5)
    tensors = {
        "plain": weight,
        "channels_last": weight.contiguous(memory_format=torch.channels_last),
        "view": weight[:, :, ::2],
        "half": weight.half(),
        "scalar": torch.tensor(3.0),
        "empty": torch.zeros(0, 4),
        "grad": weight.clone().requires_grad_(),
    }
    write_tensors(tmp_path / "t.safetensors", tensors)
    found = read_tensors(tmp_path / "t.safetensors")
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value.detach()), name
    write_tensors(tmp_path / "a", {"w": weight})
    write_tensors(tmp_path / "b", {"w": tensors["channels_last"]})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("read", [read_tensors, read_json])
def test_missing_files_are_named(read, tmp_path):
    with pytest.raises(CheckpointError, match="gone: no such file"):
        read(tmp_path / "gone")


# --- modules and optimisers ----------------------------------------------------------------------
@pytest.mark.parametrize(
    ("other", "named"), [(nn.Linear(3, 3), "weight"), (nn.Linear(2, 3, bias=False), "bias")]
)
def test_weights_of_another_network_are_refused(other, named, tmp_path):
    with pytest.raises(CheckpointError) as caught:
        load_module(nn.Linear(2, 3), other.state_dict(), tmp_path / "here")
    message = str(caught.value)
    assert f"{tmp_path}/here: weights do not fit" in message
    assert named in message
    assert "\n" not in message  # the first of them, not a page of names


def test_loading_keeps_the_modules_own_memory(tmp_path):
    conv = nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    stride = conv.weight.stride()
    tensors = {"weight": torch.randn(6, 4, 3, 3), "bias": torch.randn(6)}
    load_module(conv, tensors, tmp_path)
    assert conv.weight.stride() == stride
    assert torch.equal(conv.weight, tensors["weight"])


def stepped_adam(net: nn.Module, fused: bool = True) -> torch.optim.Adam:
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3, fused=fused)
    for weight in net.parameters():
        weight.grad = torch.randn_like(weight)
    optimiser.step()
    return optimiser


@pytest.mark.parametrize("fused", [True, False])
def test_moments_come_back_in_the_format_of_their_parameter(fused, tmp_path):
    net = nn.Sequential(nn.Conv2d(4, 6, 3), nn.Conv2d(6, 2, 1))
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = stepped_adam(net, fused)
    tensors = optimiser_tensors(optimiser, "G")
    assert len(tensors) == 3 * 4  # step and two moments of two kernels and two biases
    write_tensors(tmp_path / "o", tensors)
    again = torch.optim.Adam(net.parameters(), lr=1e-3, fused=fused)
    load_optimiser(again, read_tensors(tmp_path / "o"), "G")
    for weight in net.parameters():
        before, after = optimiser.state[weight], again.state[weight]
        assert before.keys() == after.keys()
        for name in before:
            assert torch.equal(before[name], after[name])
            assert before[name].stride() == after[name].stride()


def test_prefixes_keep_networks_apart():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    moments = optimiser_tensors(stepped_adam(first), "G")
    moments |= optimiser_tensors(stepped_adam(second), "D")
    assert len(moments) == 12
    again = torch.optim.Adam(second.parameters(), fused=True)
    load_optimiser(again, moments, "D")
    assert torch.equal(again.state[second.weight]["exp_avg"], moments["D.0.exp_avg"])
    assert not torch.equal(moments["D.0.exp_avg"], moments["G.0.exp_avg"])


@pytest.mark.parametrize("change", ["a moment is missing", "a shape does not fit"])
def test_moments_of_another_network_are_refused(change):
    net = nn.Linear(2, 3)
    moments = optimiser_tensors(stepped_adam(net), "G")
    if change == "a moment is missing":
        del moments["G.1.exp_avg"]
    else:
        moments["G.0.exp_avg"] = torch.zeros(5, 7)
    with pytest.raises(CheckpointError, match=r"G\.[01]\.exp_avg"):
        load_optimiser(torch.optim.Adam(net.parameters(), fused=True), moments, "G")


# --- step folders --------------------------------------------------------------------------------
def test_the_last_two_are_kept_and_the_pointer_names_the_newest(tmp_path):
    for step in (5, 10, 15, 20):
        folder = save_number(tmp_path, step)
        assert folder == latest_step(tmp_path)
        assert number_in(folder) == step
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["latest", "step-00000015", "step-00000020"]
    assert (tmp_path / "checkpoints/latest").read_text() == "step-00000020\n"
    assert latest_step(tmp_path) == folder
    state = read_json(folder / "state.json")
    assert (state["step"], state["seconds"]) == (20, 10.0)
    assert state["sha256"].keys() == {"state", "networks", "ema", "optimisers"}
    assert state["sha256"]["ema"] == sha256_of(folder / "ema.safetensors")


class Interrupted(BaseException):
    """Stands for a kill at this moment (kill -9 itself is tried in test_resume)."""


def dying(function: Callable[..., Any], name: str, when: str) -> Callable[..., Any]:
    """The function, dying before or after the call whose first path has this name."""

    def wrapped(path: Path, *rest: Any, **options: Any) -> Any:
        chosen = Path(path).name == name
        if chosen and when == "before":
            raise Interrupted
        result = function(path, *rest, **options)
        if chosen:
            raise Interrupted
        return result

    return wrapped


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("holder", "function", "name"),
    [
        (checkpoints, "write_tensors", "networks.safetensors"),
        (checkpoints, "write_tensors", "ema.safetensors"),
        (checkpoints, "write_json_atomic", "state.json"),
        (os, "rename", ".step-00000003.tmp"),
        (checkpoints, "write_atomic", "latest"),
        (checkpoints.shutil, "rmtree", ".step-00000001.tmp"),
    ],
)
def test_whenever_a_save_is_cut_off_a_whole_checkpoint_remains(
    holder, function, name, when, tmp_path
):
    for step in (1, 2):
        save_number(tmp_path, step)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(holder, function, dying(getattr(holder, function), name, when))
        with pytest.raises(Interrupted):
            save_number(tmp_path, 3)
    assert number_in(latest_step(tmp_path)) in (2, 3)
    # the resumed run writes the same steps again and cleans up
    for step in (3, 4):
        assert number_in(save_number(tmp_path, step)) == step
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["latest", "step-00000003", "step-00000004"]


def test_a_run_without_checkpoints_says_what_to_do_and_a_step_can_be_written_anew(tmp_path):
    assert step_folders(tmp_path) == []
    with pytest.raises(CheckpointError, match=r"found no checkpoint.*without --resume"):
        latest_step(tmp_path)
    save_number(tmp_path, 1)
    folder = save_number(tmp_path, 2)
    (folder / "networks.safetensors").write_bytes(b"old")
    assert save_number(tmp_path, 2) == folder
    assert number_in(latest_step(tmp_path)) == 2
    assert [number_in(path) for path in step_folders(tmp_path)] == [1, 2]


# --- exports -------------------------------------------------------------------------------------
def test_an_export_is_half_as_large_and_close_and_has_no_card_when_cut_off(tmp_path, monkeypatch):
    ema: dict[str, Tensor] = {"G.w": torch.randn(50, 50), "E.w": torch.randn(10)}
    write_export(tmp_path / "new" / "export", ema, {"format": 1})
    found = read_tensors(tmp_path / "new/export/ema.safetensors")
    for name, value in ema.items():
        assert found[name].dtype == torch.float16
        assert torch.allclose(found[name].float(), value, rtol=2**-10, atol=1e-7)
    assert read_json(tmp_path / "new/export/card.json") == {"format": 1}
    cut_off = dying(write_tensors, "ema.safetensors", "after")
    monkeypatch.setattr(checkpoints, "write_tensors", cut_off)
    with pytest.raises(Interrupted):
        write_export(tmp_path, {"G.w": torch.zeros(2)}, {"format": 1})
    assert not (tmp_path / "card.json").exists()
