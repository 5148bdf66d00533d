"""The commands that take a trained model: `generate`, `export`, `samples`."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from dtgan_core.synthesis import Synthesizer
from dtgan_core.training import Trainer
from dtgan_lab.cli.main import main
from tests.core_fixtures import SIZE, picture, save_picture, write_tiny_dataset


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("parts")
    for product in range(2):
        save_picture(root / f"good/{product}.png", picture(product, 0, 9))
    save_picture(root / "scratched/0.png", picture(0, 1, 9))
    return root


def train(data: Path, out: Path, *more: str) -> int:
    options = ["--preset", "tiny", "--batch", "3", "--set", "train.checkpoint_every=2", *more]
    return main(["train", "--data", str(data), "--out", str(out), *options])


@pytest.fixture(scope="module")
def finished(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "finished"
    assert train(tiny_data, out, "--iterations", "2") == 0
    return out


# --- generate ------------------------------------------------------------------------------------
def test_generate_end_to_end(export, parts, tmp_path, capsys, monkeypatch):
    common = ["generate", "--checkpoint", str(export), "--backgrounds", str(parts / "good")]
    common += ["--defect", "Scratches", "--count", "5", "--seed", "2"]
    assert main([*common, "--out", str(tmp_path / "latent"), "--batch", "2"]) == 0
    told = capsys.readouterr()
    assert f"done: 5 images in {tmp_path}/latent/images" in told.out
    assert "can be seen" not in told.err
    with monkeypatch.context() as patch:
        patch.setattr(Synthesizer, "masks", lambda self, plain, fakes: 0 * plain[..., 0])
        assert main([*common, "--out", str(tmp_path / "nothing")]) == 0
    assert "0 of the first 5 images of Scratches change anything" in capsys.readouterr().err
    references = ["--references", str(parts / "scratched"), "--threads", "1"]
    threads = torch.get_num_threads()
    try:
        assert main([*common, *references, "--out", str(tmp_path / "reference")]) == 0
    finally:
        torch.set_num_threads(threads)
    for guidance in ("latent", "reference"):
        table = pd.read_csv(tmp_path / guidance / "manifest.csv", keep_default_na=False)
        assert set(table["guidance"]) == {guidance}
        assert len(table) == len(list((tmp_path / guidance / "images").iterdir())) == 5
        assert len(list((tmp_path / guidance / "approximate_masks").iterdir())) == 5


def test_generate_from_a_run_on_one_image_and_one_that_cannot_be_read(
    finished, parts, tmp_path, export, failing
):
    arguments = ["--checkpoint", finished, "--backgrounds", parts / "good/0.png"]
    arguments += ["--defect", "Spots", "--count", "2", "--out", tmp_path / "out"]
    assert main(["generate", *map(str, arguments)]) == 0
    assert (tmp_path / "out/manifest.csv").is_file()
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/broken.png").write_bytes((parts / "good/0.png").read_bytes()[:300])
    arguments = ["--checkpoint", export, "--backgrounds", tmp_path / "parts", "--defect", "Spots"]
    message = failing("generate", *arguments, "--count", "1", "--out", tmp_path / "new")
    assert "broken.png" in message


# --- export --------------------------------------------------------------------------------------
@pytest.mark.parametrize("left", [None, ".ema.safetensors.x.tmp", "ema.safetensors"])
def test_export_of_a_run_is_what_the_run_exported(left, finished, tmp_path):
    out = tmp_path / "new" / "export"
    if left is not None:  # by one that was killed
        out.mkdir(parents=True)
        (out / left).write_bytes(b"half")
    assert main(["export", "--run", str(finished), "--out", str(out)]) == 0
    for name in ("ema.safetensors", "card.json"):
        assert (out / name).read_bytes() == (finished / "export" / name).read_bytes(), name
    assert len(list(out.iterdir())) == 2


def test_export_of_a_run_that_was_stopped_and_of_nothing(tiny_data, tmp_path, monkeypatch, failing):
    step = Trainer.step

    def interrupted(self: Trainer) -> dict[str, torch.Tensor]:
        if self.step_count == 3:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Trainer, "step", interrupted)
    assert train(tiny_data, tmp_path / "run", "--iterations", "9") == 130
    assert main(["export", "--run", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0
    assert Synthesizer.load(tmp_path / "out").card["iterations"] == 2
    message = failing("export", "--run", tmp_path / "none", "--out", tmp_path / "new")
    assert f"{tmp_path}/none" in message
    assert not (tmp_path / "new").exists()


# --- samples -------------------------------------------------------------------------------------
def test_samples_draws_a_picture_and_refuses_other_data(export, tiny_data, tmp_path, failing):
    arguments = ["--checkpoint", export, "--data", tiny_data, "--split", "train", "--rows", 2]
    for name in ("first.png", "second.png"):
        out = tmp_path / "new" / name
        assert main(["samples", *map(str, arguments), "--scale", "1", "--out", str(out)]) == 0
    with Image.open(tmp_path / "new/first.png") as image:
        # titles; 2 rows of each of 3 products; a source, 2 draws, a reference and a result a defect
        assert image.size == (9 * (SIZE + 2) + 2, 32 + 6 * (SIZE + 2) + 2)
        assert np.asarray(image)[:32].min() == 0  # something is written above the columns
    first, second = ((tmp_path / "new" / name).read_bytes() for name in ("first.png", "second.png"))
    assert first == second
    other = write_tiny_dataset(tmp_path / "other", products=("A", "B"))
    arguments = ["--checkpoint", export, "--data", other, "--split", "train"]
    message = failing("samples", *arguments, "--out", tmp_path / "picture.png")
    assert "give the data set it was trained on" in message
