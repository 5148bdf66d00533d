"""The command line as a user meets it: `python -m dtgan_core train | generate`."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dtgan_core.config import ABLATIONS, PRESETS
from dtgan_core.synthesis import Synthesizer
from dtgan_core.training import Trainer
from dtgan_lab.cli.main import main
from dtgan_lab.options import parse_overrides
from tests.core_fixtures import latest_step, log_lines, picture, save_picture, write_tiny_dataset

ROOT = Path(__file__).resolve().parent.parent
TINY = ["--preset", "tiny", "--batch", "3", "--precision", "fp32"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_dataset(tmp_path_factory.mktemp("data") / "tiny")


def train(data: Path, out: Path, *more: str) -> int:
    return main(["train", "--data", str(data), "--out", str(out), *TINY, *more])


# --- help ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("command", "words"),
    [
        ([], ["train", "generate", "samples", "export"]),
        (["samples"], ["--checkpoint", "--data", "--split", "train, val or test"]),
        (["export"], ["--run", "--out", "newest checkpoint"]),
        (
            ["train"],
            ["--data", "--out", "--resume", "--set", "data_scripts", "Example:", *PRESETS]
            + [f"{letter}," for letter in list(ABLATIONS)[:-1]],
        ),
        (
            ["generate"],
            ["--checkpoint", "--backgrounds", "--references", "Example:", "latent-guided"]
            + [
                "generated_masks",
                "approximate_masks",
                "manifest.csv",
                "the same seed makes the same images",
            ],
        ),
    ],
)
def test_help(command, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--help"])
    assert stopped.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for word in words:
        assert word in text
    assert "(default: None)" not in text  # tells a newcomer nothing


def test_without_a_command_the_usage_is_shown(failing):
    assert "command" in failing()


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
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of five iterations that went through."""
    out = tmp_path_factory.mktemp("runs") / "first"
    options = ["--iterations", "5", "--set", "train.checkpoint_every=2", "--seed", "3"]
    assert train(data, out, *options) == 0
    return out


def test_a_run_leaves_what_the_help_says(finished, data):
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
    assert str(data) not in (finished / "export/card.json").read_text()
    assert latest_step(finished).name == "step-00000005"
    synth = Synthesizer.load(finished)
    assert synth.defects == ("Normal", "Scratches", "Spots")


def test_what_is_printed(data, tmp_path, capsys):
    assert train(data, tmp_path / "run", "--iterations", "1", "--ablation", "b") == 0
    out, err = capsys.readouterr()
    first, last = out.splitlines()
    told = "tiny (b) on 27 images of tiny: 1 iterations of 3 in fp32 (eager norms)"
    assert first.startswith(told)
    assert f"{tmp_path}/run/export" in last
    assert "error" not in err.lower()


def test_a_second_run_into_the_same_folder_is_refused(finished, data, failing):
    message = failing("train", "--data", data, "--out", finished, *TINY)
    assert f"{finished}: holds a run already" in message
    assert "--resume" in message


def test_a_run_that_was_interrupted_resumes_to_the_same_bytes(
    finished, data, tmp_path, monkeypatch
):
    options = ["--iterations", "5", "--set", "train.checkpoint_every=2", "--seed", "3"]
    step = Trainer.step

    def interrupted(self: Trainer) -> dict[str, torch.Tensor]:
        if self.step_count == 3:
            raise KeyboardInterrupt
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", interrupted)
        assert train(data, tmp_path / "run", *options) == 130
    assert train(data, tmp_path / "run", *options, "--resume") == 0
    for name in ("networks", "ema", "optimisers"):
        file = f"checkpoints/step-00000005/{name}.safetensors"
        assert (finished / file).read_bytes() == (tmp_path / "run" / file).read_bytes()
    file = "export/ema.safetensors"
    assert (finished / file).read_bytes() == (tmp_path / "run" / file).read_bytes()


def test_resuming_a_finished_run_changes_nothing(finished, data, tmp_path, capsys):
    run = shutil.copytree(finished, tmp_path / "run")
    before = (run / "export/ema.safetensors").read_bytes()
    options = ["--iterations", "5", "--set", "train.checkpoint_every=2", "--seed", "3"]
    assert train(data, run, *options, "--resume") == 0
    assert "from iteration 5" in capsys.readouterr().out
    assert (run / "export/ema.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("option", "value"), [("--seed", "4"), ("--ablation", "d"), ("--set", "weights.cyc=2")]
)
def test_resuming_with_other_options_is_refused(option, value, finished, data, failing):
    options = {"--iterations": "5", "--seed": "3", option: value}
    flat = [word for pair in options.items() for word in pair]
    flat += ["--set", "train.checkpoint_every=2", "--resume"]
    message = failing("train", "--data", data, "--out", finished, *TINY, *flat)
    assert f"{finished}/config.json" in message


def test_resuming_with_other_data_is_refused(finished, tmp_path, failing):
    other = write_tiny_dataset(tmp_path / "other", a_cell=2)
    options = ["--iterations", "5", "--set", "train.checkpoint_every=2", "--seed", "3", "--resume"]
    message = failing("train", "--data", other, "--out", finished, *TINY, *options)
    assert f"{finished}/config.json" in message
    assert "manifest_sha256" in message


def test_resuming_nothing_is_refused(data, tmp_path, failing):
    message = failing("train", "--data", data, "--out", tmp_path / "new", *TINY, "--resume")
    assert f"{tmp_path}/new: found no run to go on with" in message
    assert "without --resume" in message
    assert not (tmp_path / "new").exists()


def start_of(run: Path, what: str) -> None:
    """What a run leaves that was killed, or found the disk full, before its first checkpoint."""
    run.mkdir()
    (run / "log.jsonl").write_text('{"step": 1, "seconds": 1.0}\n{"step"')
    if what != "log":
        (run / "config.json").write_text(what)
        (run / "checkpoints/.step-00000002.tmp").mkdir(parents=True)
        (run / "checkpoints/.step-00000002.tmp/ema.safetensors").write_bytes(b"half")


@pytest.mark.parametrize("resume", [[], ["--resume"]])
@pytest.mark.parametrize("what", ["log", "{}", '{"config'])
def test_a_run_that_kept_nothing_is_begun_anew_by_the_same_command(
    what, resume, data, tmp_path, capsys
):
    run = tmp_path / "run"
    start_of(run, what)
    assert train(data, run, "--iterations", "2", *resume) == 0
    out, _ = capsys.readouterr()
    assert f"{run}: found no checkpoint, the training starts from the beginning" in out
    assert "from iteration 0" in out
    assert [line["step"] for line in log_lines(run)] == [1, 2]
    assert latest_step(run).name == "step-00000002"
    assert not list(run.rglob(".*"))


@pytest.mark.parametrize("resume", [[], ["--resume"]])
def test_an_export_without_checkpoints_is_not_written_over(
    resume, finished, data, tmp_path, failing
):
    shutil.copytree(finished / "export", tmp_path / "run/export")
    message = failing("train", "--data", data, "--out", tmp_path / "run", *TINY, *resume)
    assert "holds an export and no checkpoint to go on from; choose another --out" in message


def test_what_is_said_when_every_checkpoint_is_damaged_works(finished, data, tmp_path, failing):
    run = tmp_path / "run"
    shutil.copytree(finished, run, ignore=shutil.ignore_patterns("export"))
    for path in (run / "checkpoints").rglob("ema.safetensors"):
        path.write_bytes(b"")
    options = ["--iterations", "5", "--set", "train.checkpoint_every=2", "--seed", "3"]
    words = ["train", "--data", data, "--out", run, *TINY, *options]
    assert "go on with it by --resume" in failing(*words)
    message = failing(*words, "--resume")
    assert f"remove {run}/checkpoints and start without --resume" in message
    shutil.rmtree(run / "checkpoints")
    assert train(data, run, *options) == 0


def test_one_product_trains_without_a_product_classifier(tmp_path):
    one = write_tiny_dataset(tmp_path / "one", products=("MTD",))
    assert train(one, tmp_path / "run", "--iterations", "1") == 0
    card = json.loads((tmp_path / "run/export/card.json").read_text())
    assert card["config"]["model"]["bg_classifier"] is False
    assert card["config"]["model"]["products"] == 1
    assert "d_bg" not in (tmp_path / "run/log.jsonl").read_text()


def test_colour_data_make_a_colour_model(tmp_path):
    colour = write_tiny_dataset(tmp_path / "colour", channels=3)
    assert train(colour, tmp_path / "run", "--iterations", "1") == 0
    assert Synthesizer.load(tmp_path / "run").config.model.channels == 3


# --- --set ---------------------------------------------------------------------------------------
def test_settings_reach_their_field():
    settings = ["weights.cyc=2", "train.lr=2e-4", "train.guidance=both", "model.noise=False"]
    assert parse_overrides(settings) == {
        "model": {"noise": False},
        "weights": {"cyc": 2},
        "train": {"lr": 2e-4, "guidance": "both"},
    }


@pytest.mark.parametrize(("setting", "value"), [("seed", 5), ("precision", "fp32")])
def test_a_setting_is_not_silently_overruled_by_an_options_default(setting, value, data, tmp_path):
    arguments = ["--preset", "tiny", "--iterations", "1", "--batch", "3"]
    main(
        ["train", "--data", str(data), "--out", str(tmp_path), *arguments]
        + ["--set", f"train.{setting}={value}"]
    )
    card = json.loads((tmp_path / "export/card.json").read_text())
    assert card["config"]["train"][setting] == value


# --- bad input -----------------------------------------------------------------------------------
@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is there")
def test_cuda_is_refused_where_there_is_none(data, tmp_path, failing):
    message = failing("train", "--data", data, "--out", tmp_path / "run", "--device", "cuda")
    assert "found no CUDA device; use --device cpu" in message


def test_a_folder_that_is_no_data_set_is_refused(tmp_path, failing):
    save_picture(tmp_path / "photos/a.png", picture(0, 0, 0))
    capture = main(["train", "--data", str(tmp_path / "photos"), "--out", str(tmp_path / "run")])
    assert capture == 2
    assert not (tmp_path / "run").exists()
