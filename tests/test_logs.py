"""Logs of a training run and the signs in them, on runs whose answers are known."""

import json

import pandas as pd
import pytest

from dtgan_lab import logs

HEALTHY = {"d_adv": 1.2, "adv": 0.8, "ds": 0.2, "c_abs": 0.8, "c_rel_err": 0.5, "c_spread": 0.7}


def table(lines: int = 40, **changed: float) -> pd.DataFrame:
    """A log of constant terms, "latent/adv" and so on; `changed` is of latents alone."""
    terms = {f"reference/{name}": value for name, value in HEALTHY.items()}
    terms |= {f"latent/{name}": value for name, value in (HEALTHY | changed).items()}
    steps = pd.Index(range(25, 25 * lines + 1, 25), name="step")
    return pd.DataFrame(terms, index=steps)


# --- the log -------------------------------------------------------------------------------------
def test_a_log_is_read_by_iteration_no_log_and_an_empty_one_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="found no log.*dtgan_core train"):
        logs.read_log(tmp_path / "log.jsonl")
    (tmp_path / "log.jsonl").write_text("")
    with pytest.raises(ValueError, match="found no lines.*train.log_every"):
        logs.read_log(tmp_path / "log.jsonl")
    path = tmp_path / "log.jsonl"
    lines = [{"step": 25, "seconds": 1.5, "latent/cyc": 0.5}, {"step": 50, "latent/cyc": 0.25}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    log = logs.read_log(path)
    assert log.index.tolist() == [25, 50] and log.index.name == "step"
    assert log["latent/cyc"].tolist() == [0.5, 0.25]


@pytest.mark.parametrize(
    "broken", ['{"step": 50, "lat', "[1]\n", '{"seconds": 3}\n', "7\n", "\0\n"]
)
def test_a_broken_line_is_named(tmp_path, broken):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 25}\n' + broken)
    with pytest.raises(ValueError, match=r"log\.jsonl: line 2 (is no|has no).*--resume"):
        logs.read_log(path)


def test_parts_take_at_least_a_line():
    log = table(lines=3)
    log["latent/ds"] = [1.0, 2.0, 9.0]
    assert logs.part(log, "first")["latent/ds"] == 1.0
    assert logs.part(log, "last")["latent/ds"] == 9.0
    assert logs.part(log, "last", share=0.6)["latent/ds"] == 5.5


# --- signs ---------------------------------------------------------------------------------------
def test_a_healthy_end_raises_no_alarm_and_what_is_no_number_does():
    shown = logs.danger_signs({"run": table()})
    assert len(shown) == 2 * len(logs.SIGNS)
    assert not shown["run"].str.endswith("!").any()
    assert all(sign.alarm(float("nan")) for sign in logs.SIGNS)
    log = table(lines=40)
    log.loc[log.index[:36], "latent/c_abs"] = 0.0
    assert not logs.danger_signs({"run": log})["run"].str.endswith("!").any()


ILL = [("d_adv", 0.1), ("ds", 0.0), ("ds", 1.9), ("c_abs", 0.002), ("c_rel_err", 0.98)]


@pytest.mark.parametrize(("term", "value"), [*ILL, ("c_spread", 0.01)])
def test_each_failure_raises_its_own_alarm(term, value):
    shown = logs.danger_signs({"sound": table(), "ill": table(40, **{term: value})})
    alarms = shown[shown["ill"].str.endswith("!")]
    assert alarms["measured by"].tolist() == [f"latent/{term}"]
    assert not shown["sound"].str.endswith("!").any()
