"""Folders that were trained elsewhere, damaged or forged: one line that names file and field."""

import json
import os
import resource
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dtgan_core.checkpoints import CheckpointError, read_tensors, write_export, write_tensors
from dtgan_core.synthesis import Synthesizer
from dtgan_lab.baselines.zoo import load_system
from dtgan_lab.measure.domain import DomainFeatures
from dtgan_lab.measure.judge import Judge

COMMITTED = Path(__file__).parents[1] / "notebooks" / "checkpoints"
KINDS: dict[str, tuple[str, str, Callable[[Path], Any]]] = {
    "dtgan": ("trial-layered", "ema.safetensors", Synthesizer.load),
    "mokady": ("mokady-laptop/A-Spots", "ema.safetensors", load_system),
    "judge": ("judge-synthetic-sdi", "judge.safetensors", Judge.load),
    "domain": ("domain-synthetic-sdi", "domain.safetensors", DomainFeatures.load),
}
MISSING = object()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(kind: str, tmp_path: Path) -> Path:
    """A sound folder of a kind, to be damaged."""
    return Path(shutil.copytree(COMMITTED / KINDS[kind][0], tmp_path / "model"))


def refused(kind: str, folder: Path) -> str:
    """The one line that a damaged folder is refused with."""
    with pytest.raises(CheckpointError) as caught:
        KINDS[kind][2](folder)
    message = str(caught.value)
    assert "\n" not in message and str(folder) in message
    return message


def forge(folder: Path, field: str, value: Any) -> None:
    """Give a field of the card another value, or take it out."""
    path = folder / "card.json"
    card = json.loads(path.read_text())
    *groups, name = field.split(".")
    part = card
    for group in groups:
        part = part[group]
    if value is MISSING:
        del part[name]
    else:
        part[name] = value
    path.write_text(json.dumps(card))


def test_weights_that_are_not_finite_or_of_another_kind_are_refused(kind, folder):
    path = folder / KINDS[kind][1]
    tensors = read_tensors(path)
    name = list(tensors)[-1] if tensors[list(tensors)[-1]].is_floating_point() else list(tensors)[0]
    for value in (float("nan"), float("inf"), -float("inf")):
        tensors[name].view(-1)[-1] = value
        write_tensors(path, tensors)
        told = f"{path.name}: found numbers in {name!r} that are not finite"
        assert told in refused(kind, folder), value
    write_tensors(path, {name: tensor.long() for name, tensor in tensors.items()})
    assert "do not fit these networks: found int64" in refused(kind, folder)


@pytest.mark.parametrize(
    "field", ["config", "config.width", "config.image_size", "config.channels", "data"]
)
def test_a_forged_card_is_one_line(kind, folder, field):
    if kind in ("dtgan", "mokady") and field.startswith("config."):
        field = field.replace("config.", "config.model.")
    size = field.rpartition(".")[2] in ("width", "image_size", "channels")
    sound = (folder / "card.json").read_text()
    for value in ("64", None, True, [64], {}, 1.5, -3, 10**30, 10**12, MISSING):
        if value is MISSING and (size or (kind, field) == ("judge", "data")):
            continue  # defaults that may be right; a judge that was trained in a script
        if kind in ("judge", "domain") and value == {} and not size:
            continue  # data about which nothing is said
        (folder / "card.json").write_text(sound)
        forge(folder, field, value)
        message = refused(kind, folder)
        assert any(n in message for n in ("card.json", KINDS[kind][1], "its card")), value


@pytest.mark.parametrize("field", ["defects", "products", "width", "max_width", "style_dim"])
def test_sizes_in_a_card_take_no_memory(field, tmp_path):
    folder = Path(shutil.copytree(COMMITTED / "trial-layered", tmp_path / "model"))
    for count in (24, 10_000_000, 2**62):
        forge(folder, f"config.model.{field}", count)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        message = refused("dtgan", folder)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < 100 * 1024  # KiB, Linux
        assert "card.json" in message or "its card" in message or "do not fit" in message


def test_many_names_in_a_card_are_counted_and_what_float16_cannot_hold_refused(tmp_path):
    folder = Path(shutil.copytree(COMMITTED / "trial-layered", tmp_path / "model"))
    names = [f"d{number}" for number in range(10_000)]
    forge(folder, "config.model.defects", len(names))
    forge(folder, "data.defects", names)
    assert "tells of 10000 defects" in refused("dtgan", folder)
    with pytest.raises(CheckpointError, match=r"weights in 'G\.w' beyond float16"):
        write_export(tmp_path / "new", {"G.w": torch.tensor([1e6])}, {"format": 1})
    assert not list((tmp_path / "new").glob("*"))


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("data.defects", "Normal", "data.defects = 'Normal', expected a list"),
        ("data.defects", MISSING, "found no data.defects"),
        ("data.defects", ["Normal"], "expected 3 different names"),
        ("data.defects", ["Normal", "Spots", "Spots"], "expected 3 different names"),
        ("data.products", ["A", 2, "C"], "data.products[1] = 2, expected a text"),
        ("data.licence", 3, "data.licence = 3, expected a text"),
        ("iterations", "many", "iterations = 'many', expected a whole number"),
        ("seconds", None, "seconds = None, expected a finite number"),
        ("hardware", [], "hardware = [], expected an object"),
        ("hardware.threads", MISSING, "found no hardware.threads"),
        ("config.model.resample", "zip", "config.model.resample = 'zip', expected 'pool'"),
        ("config.model.anchor", 3, "config.model: anchor is 3; expected 0 to 2"),
        ("config.train.lr", "fast", "config.train.lr = 'fast', expected a finite number"),
        ("config.train.depth", 1, "unknown field config.train.depth"),
    ],
)
def test_every_field_of_a_card_is_held_against_its_type(field, value, told, tmp_path):
    folder = Path(shutil.copytree(COMMITTED / "trial-layered", tmp_path / "model"))
    forge(folder, field, value)
    message = refused("dtgan", folder)
    assert f"{folder / 'card.json'}: " in message and told in message


def test_a_card_that_is_no_card_and_a_header_that_lies_are_one_line(kind, folder):
    path, sound = folder / KINDS[kind][1], (folder / "card.json").read_text()
    for text in ("[" * 100_000, "1" * 5000, '{"config": ', "\0", "[]", "7", "null"):
        (folder / "card.json").write_text(text)
        assert "card.json" in refused(kind, folder), text[:9]
    (folder / "card.json").write_text(sound)
    data = path.read_bytes()
    for size in (2**63 - 1, 10**9, 0):
        path.write_bytes(struct.pack("<Q", size) + data[8:])
        assert f"{path.name}: found a damaged file" in refused(kind, folder), size


def test_folders_and_files_that_changed_places_are_one_line_and_sound_ones_load(kind, folder):
    for name in (KINDS[kind][1], "card.json"):
        kept = (folder / name).read_bytes()
        (folder / name).unlink()
        (folder / name).mkdir()
        refused(kind, folder)
        (folder / name).rmdir()
        os.mkfifo(folder / name)
        refused(kind, folder)
        (folder / name).unlink()
        (folder / name).write_bytes(kept)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    KINDS[kind][2](folder)
    assert torch.equal(torch.rand(1), expected), "loading leaves the random state alone"
