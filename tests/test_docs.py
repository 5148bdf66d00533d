"""The pages of docs/: their links lead somewhere, and their numbers are those of results/."""

import re
from pathlib import Path

import pandas as pd
import pytest
import torch

from dtgan_core.config import PRESETS, make_config
from dtgan_core.networks import Networks
from dtgan_lab.cli.main import FORMAT_HELP
from dtgan_lab.logs import SIGNS
from dtgan_lab.measure.sets import FLOOR, NORMAL, PASTE
from tools import looks

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def table_rows(page: str) -> list[list[str]]:
    """The cells of every row of every table of a page."""
    lines = (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines()
    rows = [line.strip("|").split("|") for line in lines if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_to_files(page):
    text = page.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    folders = "docs|results|dtgan_core|dtgan_lab|data_scripts|notebooks"
    named = re.findall(rf"`((?:{folders})/[\w./-]+)`", text)
    missing = [link for link in links if not (page.parent / link).exists()]
    missing += [name for name in named if not (ROOT / name).exists()]
    assert not missing


def test_the_readme_links_every_page():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"](docs/{page.name})" in readme for page in (ROOT / "docs").glob("*.md"))


def test_the_losses_are_those_of_the_committed_log():
    log = pd.read_json(ROOT / "results/composed-laptop.log.jsonl", lines=True)
    tenth = len(log) // 10
    rows = [row for row in table_rows("reading_the_losses.md") if len(row) == 5 and "/" in row[0]]
    assert len(rows) == 17
    for name, _, first, last, _ in rows:
        values = log[name.strip("`")]
        assert first == f"{values[:tenth].mean():.3f}", name
        assert last == f"{values[-tenth:].mean():.3f}", name


def test_bounds_and_formats_of_the_pages_are_those_of_the_code():
    told = " ".join(row[0] for row in table_rows("reading_the_losses.md"))
    for sign in SIGNS:
        assert f"`{sign.term}` {'over' if sign.above else 'under'} {sign.bound:.2g}" in told
    formats = {row[0].split("`")[1] for row in table_rows("exporting.md") if row[0].startswith("`")}
    assert {part.split(":")[0].strip() for part in FORMAT_HELP.split(";")} <= formats


def test_the_presets_are_those_of_the_code():
    rows = {row[0].strip("`"): row for row in table_rows("choosing_a_preset.md")}
    for name in PRESETS:
        config = make_config(name)
        with torch.device("meta"):
            nets = Networks(config.model)
        sizes = [sum(p.numel() for p in getattr(nets, n).parameters()) / 1e6 for n in "GMED"]
        _, pixels, weights, iterations, _ = rows[name]
        assert int(pixels) == config.model.image_size
        assert weights == ", ".join(f"{size:.2g}" for size in sizes)
        assert int(iterations.replace(",", "")) == config.train.iterations


RESULTS = {  # rows of the README's table: label -> file of `tools/looks.py`, ways in their order
    "(f), moved": ("composed-laptop", ["reference"]),
    "(f), drawn": ("composed-laptop", ["latent"]),
    "(e), the paper's steps, moved / drawn": ("synthetic-sdi-laptop", ["reference", "latent"]),
    "copy-paste": ("yardsticks", [PASTE]),
    "untouched parts": ("yardsticks", [NORMAL]),
    "other real pictures": ("yardsticks", [FLOOR]),
}


@pytest.mark.parametrize("label", RESULTS)
def test_the_readme_tells_what_was_measured(label):
    model, ways = RESULTS[label]
    files = (ROOT / f"results/{model}.{kind}.csv" for kind in ("fd", "looks"))
    told = looks.summary(*(pd.read_csv(file) for file in files if file.exists())).loc[ways]
    lines = (ROOT / "README.md").read_text(encoding="utf-8").replace("*", "").splitlines()
    (row,) = [line.strip("|").split("|") for line in lines if line.startswith(f"| {label}")]
    for text, name in zip(row[1:], ("pooled", "cells", "polarity", "right"), strict=True):
        for number, way in zip(text.split("/"), ways, strict=True) if name in told else ():
            mean, _, spread = number.strip().partition(" ± ")
            digits = len(mean.partition(".")[2])
            assert float(mean) == float(f"{float(told[name][way]):.{digits}f}"), (name, way)
            if spread:
                assert float(spread) == float(f"{float(told[f'{name} ±'][way]):.{digits}f}")


def test_the_looks_of_the_model_are_those_of_its_file():
    rows = looks.results_rows(pd.read_csv(ROOT / "results/composed-laptop.looks.csv"))
    assert set(rows) <= set((ROOT / "docs/results.md").read_text(encoding="utf-8").splitlines())
