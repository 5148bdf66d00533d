"""Logs, signs, curves and sample strips of a training run, on runs whose answers are known."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from dtgan_lab.plots import training as tf
from dtgan_lab.plots.figures import use_style

HEALTHY = {"d_adv": 1.2, "adv": 0.8, "ds": 0.2, "c_abs": 0.8, "c_rel_err": 0.5, "c_spread": 0.7}


@pytest.fixture(autouse=True)
def close_figures() -> Iterator[None]:
    yield
    plt.close("all")


def table(lines: int = 40, **changed: float) -> pd.DataFrame:
    """A log of constant terms, "latent/adv" and so on; `changed` is of latents alone."""
    terms = {f"reference/{name}": value for name, value in HEALTHY.items()}
    terms |= {f"latent/{name}": value for name, value in (HEALTHY | changed).items()}
    steps = pd.Index(range(25, 25 * lines + 1, 25), name="step")
    return pd.DataFrame(terms, index=steps)


# --- the log -------------------------------------------------------------------------------------


def test_a_log_is_read_by_iteration(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    lines = [{"step": 25, "seconds": 1.5, "latent/cyc": 0.5}, {"step": 50, "latent/cyc": 0.25}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    log = tf.read_log(path)
    assert log.index.tolist() == [25, 50] and log.index.name == "step"
    assert log["latent/cyc"].tolist() == [0.5, 0.25]


@pytest.mark.parametrize(
    "broken", ['{"step": 50, "lat', "[1]\n", '{"seconds": 3}\n', "7\n", "\0\n"]
)
def test_a_broken_line_is_named(tmp_path: Path, broken: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 25}\n' + broken)
    with pytest.raises(ValueError, match=r"log\.jsonl: line 2 (is no|has no).*--resume"):
        tf.read_log(path)


def test_no_log_and_an_empty_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="found no log.*dtgan_core train"):
        tf.read_log(tmp_path / "log.jsonl")
    (tmp_path / "log.jsonl").write_text("")
    with pytest.raises(ValueError, match="found no lines.*train.log_every"):
        tf.read_log(tmp_path / "log.jsonl")


def test_the_running_mean_is_centred() -> None:
    values = pd.Series([0.0, 0.0, 3.0, 0.0, 0.0])
    assert tf.smoothed(values, 3).tolist() == [0, 1, 1, 1, 0]
    assert tf.smoothed(values, 1).tolist() == values.tolist()


def test_the_geometric_mean_is_not_carried_by_one_outlier() -> None:
    values = pd.Series([1e-4, 1e-4, 1.0, 1e-4, 1e-4])
    middle = tf.smoothed(values, 5, logarithmic=True)[2]
    assert middle == pytest.approx(10 ** (-16 / 5))
    assert np.isfinite(tf.smoothed(pd.Series([0.0, 1.0]), 2, logarithmic=True)).all()


def test_window_and_parts_take_at_least_a_line() -> None:
    log = table(lines=3)
    log["latent/ds"] = [1.0, 2.0, 9.0]
    assert tf.window_of(log) == 1
    assert tf.part(log, "first")["latent/ds"] == 1.0
    assert tf.part(log, "last")["latent/ds"] == 9.0
    assert tf.part(log, "last", share=0.6)["latent/ds"] == 5.5


def test_phases_stand_side_by_side() -> None:
    log = table(lines=20)
    log["latent/ds"] = np.arange(20.0)
    shown = tf.phases(log, {"ds": "diversity", "adv": "game"})
    assert shown.index.tolist() == ["diversity", "game"]
    assert shown.loc["diversity", ("latent", "first")] == 0.5
    assert shown.loc["diversity", ("latent", "last")] == 18.5
    assert shown.loc["game", ("reference", "last")] == HEALTHY["adv"]


# --- signs ---------------------------------------------------------------------------------------


def test_a_healthy_run_raises_no_alarm() -> None:
    shown = tf.danger_signs({"run": table()})
    assert len(shown) == 2 * len(tf.SIGNS)
    assert not shown["run"].str.endswith("!").any()


@pytest.mark.parametrize(
    ("term", "value"),
    [
        ("d_adv", 0.1),
        ("ds", 0.0),
        ("ds", 1.9),
        ("c_abs", 0.002),
        ("c_rel_err", 0.98),
        ("c_spread", 0.01),
    ],
)
def test_each_failure_raises_its_own_alarm(term: str, value: float) -> None:
    shown = tf.danger_signs({"sound": table(), "ill": table(40, **{term: value})})
    alarms = shown[shown["ill"].str.endswith("!")]
    assert alarms["measured by"].tolist() == [f"latent/{term}"]
    assert not shown["sound"].str.endswith("!").any()


def test_a_value_that_is_no_number_is_an_alarm() -> None:
    assert all(sign.alarm(float("nan")) for sign in tf.SIGNS)


def test_only_the_end_of_a_run_counts() -> None:
    log = table(lines=40)
    log.loc[log.index[:36], "latent/c_abs"] = 0.0
    assert not tf.danger_signs({"run": log})["run"].str.endswith("!").any()


# --- curves --------------------------------------------------------------------------------------


def test_a_panel_holds_both_guidances_and_its_level() -> None:
    panels = [
        tf.Panel("d_adv", "D", (tf.UNDECIDED, "undecided")),
        tf.Panel("ds", "diversity"),
        tf.Panel("c_abs", "size", None, True),
    ]
    figure = tf.term_curves(table(), panels, "title")
    first, second, third, spare = figure.axes
    bold = {line.get_label(): line for line in first.get_lines()}
    for guidance, colour in tf.GUIDANCES.items():
        assert to_hex(bold[guidance].get_color()) == colour.lower()
        assert np.allclose(np.asarray(bold[guidance].get_ydata()), HEALTHY["d_adv"])
    assert [text.get_text() for text in first.texts] == ["undecided"]
    assert first.get_ylim()[0] == 0 and first.get_ylim()[1] > 1.1 * tf.UNDECIDED
    assert second.get_yscale() == "linear" and third.get_yscale() == "log"
    assert not spare.axison, "a place without a panel stays empty"


def test_the_level_is_named_away_from_the_curves() -> None:
    above = tf.Panel("adv", "G", (0.5, "level"))
    below = tf.Panel("adv", "G", (1.5, "level"))
    figure = tf.term_curves(table(), [above, below], "title")
    places = [axes.texts[0].get_verticalalignment() for axes in figure.axes]
    assert places == ["top", "bottom"]


def test_diversity_is_weighed_as_in_the_objective() -> None:
    log = table(lines=20)
    figure = tf.diversity_curves(log, lambda step: 0.1 * (1 - step / 500), "title")
    middle, right = figure.axes[1:]
    weights = np.asarray(middle.get_lines()[0].get_ydata())
    assert weights[0] == pytest.approx(0.095) and weights[-1] == pytest.approx(0, abs=1e-12)
    thin = np.asarray(right.get_lines()[0].get_ydata())
    assert np.allclose(thin, HEALTHY["ds"] * weights)


def test_runs_are_compared_up_to_an_iteration() -> None:
    runs = {"short": table(lines=10), "long": table(lines=40)}
    figure = tf.compare_runs(runs, {"latent/adv": "G", "latent/ds": "diversity"}, "title", 250)
    assert [axes.get_title() for axes in figure.axes] == ["G", "diversity"]
    for line in figure.axes[0].get_lines():
        assert np.asarray(line.get_xdata()).max() == 250
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["short", "long"]


# --- samples -------------------------------------------------------------------------------------


def write_steps(folder: Path, steps: list[int]) -> None:
    for step in steps:
        (folder / f"step-{step:08d}.png").touch()


def test_samples_lie_ever_wider_apart(tmp_path: Path) -> None:
    write_steps(tmp_path, list(range(500, 10_001, 500)))
    assert list(tf.sample_files(tmp_path, 6)) == [500, 1000, 1500, 3000, 5500, 10_000]
    assert list(tf.sample_files(tmp_path, 2)) == [500, 10_000]
    assert tf.sample_files(tmp_path, 2)[500] == tmp_path / "step-00000500.png"


def test_few_samples_are_all_taken(tmp_path: Path) -> None:
    write_steps(tmp_path, [500, 600, 700, 5000])
    assert list(tf.sample_files(tmp_path, 6)) == [500, 600, 700, 5000]


def test_a_folder_without_samples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"found no step-NNNNNNNN\.png.*RUN/samples"):
        tf.sample_files(tmp_path)


@pytest.mark.filterwarnings("error")
def test_a_strip_shows_pictures_pixel_for_pixel() -> None:
    use_style()
    rng = np.random.default_rng(0)
    # Two rows and nine columns of 8 x 8 tiles with two white pixels between and around.
    pictures = [rng.integers(0, 255, (22, 92, 3), dtype=np.uint8) for _ in range(2)]
    figure = tf.sample_strip(pictures, ["early", "late"], ["Scratches", "Spots"], "title")
    figure.savefig(io.BytesIO())  # must leave the layout as it is
    figure.canvas.draw()
    drawn = np.asarray(figure.canvas.buffer_rgba())[..., :3]  # type: ignore[attr-defined]
    for picture in pictures:
        windows = np.lib.stride_tricks.sliding_window_view(drawn, picture.shape)[..., 0, :, :, :]
        assert (windows == picture).all(axis=(-3, -2, -1)).any(), "found, unscaled, in the figure"
    words = [text.get_text() for text in figure.texts]
    assert words.count("reference") == 2 and {"part", "early", "late", "Spots"} <= set(words)


# --- tables --------------------------------------------------------------------------------------


def test_a_prose_table_keeps_every_word_and_escapes() -> None:
    frame = pd.DataFrame({"trial": ["A", "B"], "what": ["|c| < 1 & " + "long " * 60, "0.03 !"]})
    shown = tf.prose_table(frame)
    assert shown.count("long") == 60 and "|c| &lt; 1 &amp; long" in shown
    assert "<b>0.03 !</b>" in shown and shown.count("<tr>") == 3


def test_files_are_compared_by_their_bytes(tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("one", "two")}
    for folder in folders.values():
        folder.mkdir()
        (folder / "same.bin").write_bytes(b"same")
        (folder / "other.bin").write_bytes(folder.name.encode())
    (folders["one"] / "alone.bin").write_bytes(b"alone")
    shown = tf.compare_files(folders)
    assert shown["same"].to_dict() == {"alone.bin": False, "other.bin": False, "same.bin": True}
    assert shown.loc["alone.bin", "two"] == "-"
