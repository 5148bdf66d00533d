"""The command line as a user meets it: `train`, and `generate`, `export` and `samples` of it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from dtgan_core.synthesis import Synthesizer
from dtgan_core.training import Trainer
from dtgan_lab.cli.main import COMMANDS, main
from dtgan_lab.options import parse_overrides
from tests.core_fixtures import (
    SIZE,
    latest_step,
    log_lines,
    picture,
    save_picture,
    write_tiny_dataset,
)

ROOT = Path(__file__).resolve().parent.parent
TINY = ["--preset", "tiny", "--batch", "3", "--precision", "fp32"]
FIVE = ["--iterations", "5", "--set", "train.checkpoint_every=2", "--seed", "3"]


def train(data: Path, out: Path, *more: str) -> int:
    return main(["train", "--data", str(data), "--out", str(out), *TINY, *more])


# --- help ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("command", COMMANDS)
def test_help(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Example: python -m dtgan_core" in text
    assert "(default: None)" not in text  # tells a newcomer nothing


def test_the_module_runs_and_its_exit_status_says_so(tmp_path):
    command = [sys.executable, "-m", "dtgan_core", "train", "--data", "gone", "--out", "run"]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: gone: no such folder")
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_help_does_not_wait_for_pytorch():
    line = "import sys; from dtgan_lab.cli.main import make_parser; make_parser().format_help()"
    line += "; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", line], cwd=ROOT, check=True)


# --- train ---------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def finished(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of five iterations that went through."""
    out = tmp_path_factory.mktemp("runs") / "first"
    assert train(tiny_data, out, *FIVE) == 0
    return out


def test_a_run_leaves_what_the_help_says(finished, tiny_data):
    names = {path.name for path in finished.iterdir()}
    assert names == {"config.json", "checkpoints", "export", "log.jsonl", "samples"}
    card = json.loads((finished / "export/card.json").read_text())
    assert card["iterations"] == 5
    assert card["seconds"] > 0
    assert card["config"]["train"]["seed"] == 3
    assert card["config"]["train"]["batch_size"] == 3
    assert card["data"]["name"] == "tiny"
    assert card["data"]["licence"] == "CC0"
    assert len(card["data"]["manifest_sha256"]) == 64
    assert card["hardware"]["precision"] == "fp32"
    # nothing of this machine's folders travels with the weights
    assert str(tiny_data) not in (finished / "export/card.json").read_text()
    assert latest_step(finished).name == "step-00000005"
    synth = Synthesizer.load(finished)
    assert synth.defects == ("Normal", "Scratches", "Spots")


def test_what_is_printed(tiny_data, tmp_path, capsys):
    assert train(tiny_data, tmp_path / "run", "--iterations", "1", "--ablation", "b") == 0
    out, err = capsys.readouterr()
    first, last = out.splitlines()
    told = "tiny (b) on 27 images of tiny: 1 iterations of 3 in fp32 (eager norms)"
    assert first.startswith(told)
    assert f"{tmp_path}/run/export" in last
    assert "error" not in err.lower()


def test_a_run_that_was_interrupted_can_be_exported_and_resumes_to_the_same_bytes(
    finished, tiny_data, tmp_path, monkeypatch
):
    step = Trainer.step

    def interrupted(self: Trainer) -> dict[str, torch.Tensor]:
        if self.step_count == 3:
            raise KeyboardInterrupt
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", interrupted)
        assert train(tiny_data, tmp_path / "run", *FIVE) == 130
    assert main(["export", "--run", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0
    assert Synthesizer.load(tmp_path / "out").card["iterations"] == 2
    assert train(tiny_data, tmp_path / "run", *FIVE, "--resume") == 0
    for name in ("networks", "ema", "optimisers"):
        file = f"checkpoints/step-00000005/{name}.safetensors"
        assert (finished / file).read_bytes() == (tmp_path / "run" / file).read_bytes()
    file = "export/ema.safetensors"
    assert (finished / file).read_bytes() == (tmp_path / "run" / file).read_bytes()


def test_resuming_a_finished_run_changes_nothing(finished, tiny_data, tmp_path, capsys):
    run = shutil.copytree(finished, tmp_path / "run")
    before = (run / "export/ema.safetensors").read_bytes()
    assert train(tiny_data, run, *FIVE, "--resume") == 0
    assert "from iteration 5" in capsys.readouterr().out
    assert (run / "export/ema.safetensors").read_bytes() == before


def test_resuming_with_other_options_is_refused(finished, tiny_data, failing):
    message = failing("train", "--data", tiny_data, "--out", finished, *TINY, "--resume")
    assert f"{finished}/config.json" in message


def test_resuming_nothing_is_refused(tiny_data, tmp_path, failing):
    message = failing("train", "--data", tiny_data, "--out", tmp_path / "new", *TINY, "--resume")
    assert f"{tmp_path}/new: found no run to go on with" in message
    assert "without --resume" in message
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("config", "resume"),
    [(None, []), (None, ["--resume"]), ("{}", []), ('{"config', ["--resume"])],
)
def test_a_run_that_kept_nothing_is_begun_anew_by_the_same_command(
    config, resume, tiny_data, tmp_path, capsys
):
    """It was killed, or found the disk full, before its first checkpoint."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "log.jsonl").write_text('{"step": 1, "seconds": 1.0}\n{"step"')
    if config is not None:
        (run / "config.json").write_text(config)
        (run / "checkpoints/.step-00000002.tmp").mkdir(parents=True)
        (run / "checkpoints/.step-00000002.tmp/ema.safetensors").write_bytes(b"half")
    assert train(tiny_data, run, "--iterations", "2", *resume) == 0
    out, _ = capsys.readouterr()
    assert f"{run}: found no checkpoint, the training starts from the beginning" in out
    assert "from iteration 0" in out
    assert [line["step"] for line in log_lines(run)] == [1, 2]
    assert latest_step(run).name == "step-00000002"
    assert not list(run.rglob(".*"))


@pytest.mark.parametrize("resume", [[], ["--resume"]])
def test_an_export_without_checkpoints_is_not_written_over(
    resume, finished, tiny_data, tmp_path, failing
):
    shutil.copytree(finished / "export", tmp_path / "run/export")
    message = failing("train", "--data", tiny_data, "--out", tmp_path / "run", *TINY, *resume)
    assert "holds an export and no checkpoint to go on from; choose another --out" in message


def test_what_is_said_when_all_are_damaged_works(finished, tiny_data, tmp_path, failing):
    run = tmp_path / "run"
    shutil.copytree(finished, run, ignore=shutil.ignore_patterns("export"))
    for path in (run / "checkpoints").rglob("ema.safetensors"):
        path.write_bytes(b"")
    words = ["train", "--data", tiny_data, "--out", run, *TINY, *FIVE]
    assert "go on with it by --resume" in failing(*words)
    message = failing(*words, "--resume")
    assert f"remove {run}/checkpoints and start without --resume" in message
    shutil.rmtree(run / "checkpoints")
    assert train(tiny_data, run, *FIVE) == 0


def test_one_product_in_colour_trains_without_a_product_classifier(tmp_path):
    one = write_tiny_dataset(tmp_path / "one", products=("MTD",), channels=3)
    assert train(one, tmp_path / "run", "--iterations", "1") == 0
    model = Synthesizer.load(tmp_path / "run").config.model
    assert (model.products, model.channels, model.bg_classifier) == (1, 3, False)
    assert "d_bg" not in (tmp_path / "run/log.jsonl").read_text()


def test_settings_reach_their_field_and_are_not_overruled_by_a_default(tiny_data, tmp_path):
    settings = ["weights.cyc=2", "train.lr=2e-4", "train.seed=5", "model.noise=False"]
    groups: dict[str, dict[str, object]] = {"model": {"noise": False}, "weights": {"cyc": 2}}
    groups["train"] = {"lr": 2e-4, "seed": 5}
    assert parse_overrides(settings) == groups
    words = [word for setting in settings for word in ("--set", setting)]
    assert train(tiny_data, tmp_path, "--iterations", "1", *words) == 0
    config = Synthesizer.load(tmp_path).card["config"]
    for group, fields in groups.items():
        assert {name: config[group][name] for name in fields} == fields


# --- generate ------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("parts")
    for product in range(2):
        save_picture(root / f"good/{product}.png", picture(product, 0, 9))
    save_picture(root / "scratched/0.png", picture(0, 1, 9))
    return root


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
    told = capsys.readouterr()
    assert "0 of the first 5 images of Scratches change anything" in told.err
    assert "5 images show no change, their masks are empty: [0, 1, 2, 3, 4]" in told.out
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


def test_export_of_nothing(tmp_path, failing):
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
