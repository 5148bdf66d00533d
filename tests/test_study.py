"""Plans: read, refused, done once, gone on with, shared."""

import json
from pathlib import Path

import pandas as pd
import pytest

from dtgan_lab.cli.main import main
from dtgan_lab.files import locked
from dtgan_lab.measure.results import read_results
from dtgan_lab.study import read_plan
from tests.core_fixtures import failure

PLAN = """
preset = "tiny"
iterations = 2
set = ["train.checkpoint_every=1"]
[run.a]
ablation = "a"
seeds = [0, 1]
[run.loose]
set = ["weights.ds=0.5", "train.checkpoint_every=1"]
"""


def plan_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "plan.toml"
    path.write_text(text)
    return path


@pytest.fixture
def command(data: Path, judge_folder: Path, tmp_path: Path) -> list[str]:
    words = ["--data", data, "--judge", judge_folder]
    words += ["--plan", tmp_path / "plan.toml", "--out", tmp_path / "runs"]
    words += ["--results", tmp_path / "results.jsonl"]
    return ["study", *map(str, words)]


def test_a_plan_gives_every_run_its_first_seed_first(tmp_path, dataset):
    runs = read_plan(plan_file(tmp_path, PLAN), dataset)
    assert [run.name for run in runs] == ["a-0", "loose-0", "a-1"]
    assert [run.config.ablation for run in runs] == ["a", "e", "a"]
    assert [run.config.train.seed for run in runs] == [0, 0, 1]
    assert {run.config.train.iterations for run in runs} == {2}
    assert runs[1].config.weights.ds == 0.5 and runs[0].config.weights.ds == 1.0
    assert len({run.config_hash for run in runs}) == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("iterations = ", "cannot be read as a plan"),
        ("iterations = 5", "found no run"),
        (
            "[run.x]\nletters = 3",
            "run x: found an unknown field letters, expected of preset, ablation",
        ),
        ("[run]\nx = 1", "run x: found 1, expected a table [run.x]"),
        ("[run.x]\nablation = 'z'", "run x: unknown ablation 'z'"),
        ("[run.x]\niterations = 2.5", "run x: found iterations = 2.5, expected a whole number"),
        ("[run.'../../x']\nseeds = [0]", "found a run '../../x', expected a name of letters"),
        ("[run.'..']\nseeds = [0]", "found a run '..', expected a name of letters"),
        ('[run."a\\u0000"]\nseeds = [0]', "found a run 'a\\x00', expected a name of letters"),
        ("[run.'']\nseeds = [0]", "found a run '', expected a name of letters"),
        ("x = " + "[" * 5000, "cannot be read as a plan"),
        ("[run.x]\nset = ['train.speed=3']", "run x: --set train.speed=3"),
    ],
)
def test_a_plan_that_cannot_be_done_is_refused(text, words, tmp_path, dataset):
    with pytest.raises(ValueError, match="plan.toml") as caught:
        read_plan(plan_file(tmp_path, text), dataset)
    assert words in str(caught.value)


def test_a_study_goes_on_where_it_was_stopped_and_does_nothing_twice(command, tmp_path, capsys):
    plan_file(tmp_path, PLAN)
    assert main([*command, "--limit", "1"]) == 0
    assert "1 runs finished, 2 of 3 left" in capsys.readouterr().out
    first = read_results(tmp_path / "results.jsonl")
    assert list(first["run"]) == ["a-0"] and first["iterations"].tolist() == [2]

    other = tmp_path / "runs/loose-0"
    other.mkdir()
    with locked(other) as mine:  # as if another process were at it
        assert mine
        assert main(command) == 0
    assert "1 runs finished, 1 of 3 left" in capsys.readouterr().out
    assert main(command) == 0
    table = read_results(tmp_path / "results.jsonl")
    assert list(table["run"]) == ["a-0", "a-1", "loose-0"]
    for column in ("config_sha256", "checkpoint_sha256"):
        assert table[column].nunique() == 3
    assert table["manifest_sha256"].nunique() == 1
    cells = pd.DataFrame(table["cells"][2])
    assert len(cells) == 12 and {"overlap", "recognised_std"} <= set(cells)
    assert main(command) == 0
    assert "0 runs finished, 0 of 3 left" in capsys.readouterr().out
    assert len(read_results(tmp_path / "results.jsonl")) == 3
    # a run of another configuration under the same name is refused
    plan_file(tmp_path, PLAN.replace("iterations = 2", "iterations = 3"))
    assert main(command) == 2
    assert "config.json: found config.train" in capsys.readouterr().err
    assert len(read_results(tmp_path / "results.jsonl")) == 3
    (tmp_path / "plan.toml").unlink()
    assert "plan.toml" in failure(capsys, *command)


def test_a_row_is_plain_json_and_those_of_others_are_not_the_runs(command, tmp_path):
    plan_file(tmp_path, "preset = 'tiny'\niterations = 1\n[run.e]\n")
    results = tmp_path / "results.jsonl"
    results.write_text('{"FD (domain)": 3.2}\n')
    assert main(command) == 0
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    assert len(rows) == 2
    assert rows[1]["overall"]["latent/overlap"] is None  # a draw has no reference
    assert 0 <= rows[1]["overall"]["reference/overlap"] <= 1
    assert rows[1]["hardware"]["threads"] >= 1 and rows[1]["seconds"] > 0
    rows[1]["judge_sha256"] = "another"
    results.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(command) == 0
    assert len(results.read_text().splitlines()) == 3


def test_no_fresh_image_and_a_judge_of_another_size_are_refused(command, tmp_path, capsys):
    plan_file(tmp_path, PLAN.replace('preset = "tiny"', 'preset = "laptop"'))
    message = failure(capsys, *command, "--fresh", "0")
    assert "--fresh: found '0', expected a whole number from 1" in message
    message = failure(capsys, *command)
    assert "this judge takes (1, 32, 32)" in message
    assert not (tmp_path / "runs").exists()


def test_a_run_that_diverges_does_not_hold_up_the_others(command, tmp_path, capsys):
    wild = "[run.wild]\nset = ['train.lr=1e30', 'train.precision=\"fp32\"']\n"
    plan_file(tmp_path, f"preset = 'tiny'\niterations = 3\n{wild}[run.tame]\niterations = 1\n")
    assert main(command) == 2
    said = capsys.readouterr()
    assert "wild-0: diverged: iteration" in said.err and "diverged: wild-0" in said.err
    assert "1 runs finished, 1 of 2 left" in said.out
