"""Every command that README.md and docs/ print is one that its program takes."""

import argparse
import importlib
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

import runner
from dtgan_lab.baselines.zoo import METHODS, baseline
from dtgan_lab.cli.main import make_parser
from dtgan_lab.options import parse_overrides

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAM = re.compile(
    r"^(?P<core>(\w+=\S+ )*(\S*python )?(-m torch\.distributed\.run .*)?-m dtgan_core |dtgan )"
    r"|^(?P<short>train )"
    r"|^(\S*python )(?P<script>data_scripts|notebooks)/(?P<name>\w+)\.py "
    r"|^(?P<make>make\b)"
)


def printed(page: Path) -> list[str]:
    """The commands of a page: of its blocks, and what stands in backticks."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = "".join(re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    lines = [*blocks.splitlines(), *re.findall(r"^    (\S.*)$", prose, re.MULTILINE)]
    lines += re.findall(r"`([^`\n]+)`", prose)
    lines = [re.sub(r"^srun .* bash -c '(.*)'$", r"\1", line.strip()) for line in lines]
    return [line for line in lines if PROGRAM.match(line)]


COMMANDS = [(page.name, line) for page in PAGES for line in printed(page)]


def check_core(words: list[str]) -> None:
    """Parse a command of the core; what stands for the rest of it (...) and names are filled in."""
    words = [word.replace("FORMAT", "folder") for word in words if word != "..."]
    (commands,) = (a for a in make_parser()._actions if isinstance(a, argparse._SubParsersAction))
    for action in commands.choices[words[0]]._actions:
        if action.required and not set(action.option_strings) & set(words):
            words += [action.option_strings[0], "x"]
    chosen = make_parser().parse_args(words)
    if words[0] == "train":
        known = None if chosen.method == METHODS[0] else baseline(chosen.method).presets["tiny"]
        parse_overrides(chosen.set, known)


def check_make(words: list[str]) -> None:
    """Its targets and variables stand in the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (targets,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    for word in words:
        name, equals, value = word.partition("=")
        assert re.search(rf"^{name} \?=", makefile, re.MULTILINE) if equals else word in targets
        assert value in ("", *runner.PROFILES) or name != "PROFILE"


def check_runner(words: list[str]) -> None:
    """Options, the notebooks, and their parameters."""
    chosen, parameters = runner._parse(words)
    for path in runner.find_notebooks(ROOT, chosen.only):
        assert set(parameters) <= set(runner.read_parameters(path))


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_a_printed_command_is_one(page, line, monkeypatch, tmp_path):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    match = PROGRAM.match(line)
    assert match
    words = shlex.split(line[match.end() :], comments=True)
    check: Callable[[list[str]], object] = check_core
    if match["make"]:
        check = check_make
    elif match["script"]:
        module = importlib.import_module(match["name"])
        check = check_runner if module is runner else module.parse
    elif match["short"]:
        words = ["train", *words]
    monkeypatch.chdir(tmp_path)
    try:
        check(words)
    except SystemExit as ended:
        pytest.fail(f"{page}: {line}: ended with {ended.code}")


def test_none_is_passed_over():
    call = re.compile(r"-m dtgan_core [a-z]+|data_scripts/\w+\.py -|notebooks/runner\.py -")
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert len(call.findall(text)) == len(call.findall("\n".join(printed(page)))), page.name
    assert len(COMMANDS) >= 60


@pytest.mark.parametrize(
    "words", [["train", "--dta", "x"], ["train", "--batch", "0"], ["generate", "--format", "zip"]]
)
def test_a_wrong_one_is_found(words):
    with pytest.raises(SystemExit):
        check_core(words)
