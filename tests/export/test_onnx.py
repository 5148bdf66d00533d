from pathlib import Path

import numpy as np
import pytest
import torch

from dtgan_core.files import read_json
from dtgan_core.synthesis import Synthesizer, to_uint8
from dtgan_lab.cli.main import main
from dtgan_lab.data.synthetic.drawing import fresh_images
from dtgan_lab.export import onnx
from tests.core_fixtures import tiny_config, write_tiny_export

onnxruntime = pytest.importorskip("onnxruntime")
COMMITTED = Path(__file__).resolve().parents[2] / "notebooks/checkpoints/composed-laptop"


def tiny(folder: Path, ablation: str = "f") -> Synthesizer:
    return Synthesizer.load(write_tiny_export(folder, tiny_config(ablation)))


def test_the_committed_model_paints_the_same_defects(tmp_path, capsys):
    assert main(["export-onnx", "--checkpoint", str(COMMITTED), "--out", str(tmp_path)]) == 0
    assert "in 100 cases" in capsys.readouterr().out
    facts = read_json(tmp_path / "model.json")
    assert (facts["products"], facts["anchor"], facts["noise"]) == (
        ["A", "B", "C"],
        "Normal",
        [4, 8, 16],
    )
    synth = Synthesizer.load(COMMITTED)
    session = {n: onnxruntime.InferenceSession(tmp_path / f"{n}.onnx") for n in "EG"}
    drawn = fresh_images("A", "Normal", 1), fresh_images("B", "Scratches", 1)
    x, reference = (
        torch.nn.functional.interpolate(
            torch.from_numpy(one)[:, None].float() / 127.5 - 1, (64, 64), mode="area"
        )
        for one in drawn
    )
    expected = synth.reference_guided(x, reference, "Scratches")
    label = np.array([synth.defects.index("Scratches")])
    c, s = session["E"].run(None, {"x": reference.numpy(), "y": label})
    image, mask = session["G"].run(None, {"x": x.numpy(), "c": c, "s": s})
    found, wanted, plain = (
        to_uint8(one).astype(int) for one in (torch.from_numpy(image), expected, x)
    )
    assert np.abs(found - wanted).max() <= 1
    changed = np.abs(found - plain)[0, ..., 0] > 8
    assert changed.any() and mask[0, 0][changed].min() > 0.01


def test_every_domain_draws_its_own(tmp_path):
    synth = tiny(tmp_path / "tiny")
    assert onnx.export_onnx(synth, tmp_path / "onnx") < 0.5  # grey levels; one is refused
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "M.onnx")
    z, noise = synth.M.draw(1, torch.Generator().manual_seed(3))
    for label, defect in enumerate(synth.defects):
        given = {"z": z, "y": torch.tensor([label]), **{f"noise{n.shape[-1]}": n for n in noise}}
        c, s = session.run(None, {name: value.numpy() for name, value in given.items()})
        expected = synth.M(z, synth.label(defect, 1), noise)
        np.testing.assert_allclose(c, expected.c.numpy(), atol=1e-3)
        np.testing.assert_allclose(s, expected.s.numpy(), atol=1e-3)
        assert c.any() == (defect != synth.anchor)


def test_another_configuration_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"found configuration \(e\), expected \(f\)"):
        onnx.export_onnx(tiny(tmp_path / "tiny", "e"), tmp_path / "onnx")


def test_files_that_paint_otherwise_are_not_written(tmp_path, monkeypatch):
    synth, traced = tiny(tmp_path / "tiny"), onnx._traced

    def bolder(network, *rest) -> bytes:
        content = traced(network, *rest)
        for weight in synth.G.parameters():
            weight.mul_(1.2)
        return content

    monkeypatch.setattr(onnx, "_traced", bolder)
    with pytest.raises(ValueError, match="grey levels from PyTorch's, expected at most 1"):
        onnx.export_onnx(synth, tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()
