"""Wrong command lines: each ends in one line and a status, whatever the option and the value."""

import argparse
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

import runner
from dtgan_core.config import RANGES, make_config
from dtgan_lab.baselines import biggan, mokady, stylegan2
from dtgan_lab.cli.main import main, make_parser
from dtgan_lab.options import Parser, device, parse_overrides
from tests.core_fixtures import failure, write_tiny_dataset, write_tiny_export

SCRIPTS = ("make_synthetic_sdi", "join_datasets", "subset", "cut_sdi_tiles") + tuple(
    f"prepare_{name}" for name in ("mtd", "mvtec", "visa", "wfdd", "sdi", "folder")
)
NOT_A_NUMBER = ["", " ", "-1", "nan", "1e999", "inf", "1_0", "²", "１２", "0x10", "9" * 5000, "\0"]
NOT_A_PATH = ["", " ", "\0", "/dev/zero", "\ud800", "9" * 5000]
NOT_A_WORD = ["", " ", "\0", "two\nlines", "\ud800"]
TRAIN = "train --data DATA --out OUT --preset tiny"
GENERATE = "generate --checkpoint EXPORT --backgrounds PARTS --count 2 --out OUT"
SAMPLES = "samples --checkpoint EXPORT --data DATA --out OUT"
SPOTS, NOTHING = "generate --defect Spots --out OUT", "nowhere: found nothing"
STUDY = "study --data DATA --judge DATA --out OUT --results OUT"
WRONG_TRAINING = (
    ("device cpu:x", "--device: found 'cpu:x', expected auto, cpu, cuda"),
    ("device cuda:99", "--device"),
    ("iterations 1 --iterations 2", "--iterations: found twice, expected once"),
    ("iter 2", "--iter"),
    ("image-size 100", "image_size is 100"),
    ("seed -1", "--seed: found '-1', expected a whole number from 0 to 4294967295"),
    ("set model.width=0", "width is 0; expected 1 to 2048"),
    ("image-size 1024 --set model.width=2048 --set model.max_width=2048", "would take 1024.0 GiB"),
    ("set model.max_width=1", "defect_share is 0.5 of 1 channels"),
    ("set train.lr=1e999", "lr is inf; expected 0 to 1e+30"),
    (f"set train.lr=0x{'f' * 400}", "expected float for lr"),
    (f"set train.seed={2**70}", "seed is 1180591620717411303424; expected 0"),
    (f"set train.seed={'-' * 9000}1", "expected int for seed"),
    ("set ''", "expected GROUP.FIELD=VALUE"),
    ("set train.r1_every=2 --set train.r1_every=3", "train.r1_every twice"),
    ("iterations 1 --set train.iterations=5", "--set train.iterations: is given by an option, too"),
    *((f"set {setting}", "expected GROUP.FIELD=VALUE") for setting in ("lr=1", "train.lr", "=")),
    *((f"set {name}=3", f"--set {name}=3") for name in ("nets.width", "model.widths")),
    ("set weights.cyc=high", "expected float for cyc"),
    ("set model.noise=false", "expected bool for noise"),
    ("set train.guidance=bothe", "guidance"),
)
WRONG_GENERATING = (
    ("defect Spots --checkpoint EXPORT", "--checkpoint: found twice"),
    ("defect Spots --references nowhere", "nowhere: no such file or folder"),
    ("defect Dents", "unknown defect 'Dents'; this model knows Normal, Scratches, Spots"),
)
WRONG_SAMPLES = (
    ("split test", "no images in the split 'test'"),
    ("split holdout", "no images in the split 'holdout'"),
)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What stands in a command line for things of this folder."""
    folder = tmp_path_factory.mktemp("doors")
    write_tiny_dataset(folder / "data")
    (folder / "run/checkpoints/step-00000001").mkdir(parents=True)
    (folder / "file").write_text("a file")
    write_tiny_export(folder / "export")
    names = {"DATA": "data", "RUN": "run", "FILE": "file", "EXPORT": "export"}
    names |= {"OUT": "out", "PARTS": "data/train/A/Normal"}
    return {name: str(folder / path) for name, path in names.items()}


def filled(line: str, places: dict[str, str]) -> list[str]:
    """The words of a line, `''` an empty one, with the folder's places put in."""
    words = ["" if word == "''" else word for word in line.split(" ")]
    name = re.compile(f"^({'|'.join(places)})")
    return [name.sub(lambda found: places[found[0]], word) for word in words]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (f"{TRAIN} --method mokady --product A --defect Spots --set model.common=0", "common is 0"),
        (f"{TRAIN} --method biggan --product A --set model.attention_size=7", "of [0, 8, 16]"),
        (f"{TRAIN} --method stylegan2 --product A --set weights.path_every=0", "path_every is 0"),
        (f"{TRAIN} --method biggan --product A --set augment.ramp=0", "ramp is 0"),
        ("train --data '' --out OUT", "--data: found '', expected a file or a folder"),
        ("train --data DATA --out FILE", "expected a folder; it is a file"),
        ("export --run RUN --out RUN/checkpoints", "shares its folder with the input"),
        ("export --run RUN --out RUN/checkpoints/new", "shares its folder with the input"),
        ("export --run RUN --out RUN", "shares its folder with the input"),
        ("export --run RUN --out DATA", "holds something else"),
        ("samples --checkpoint EXPORT --data DATA --out DATA", "expected a file; it is a folder"),
        ("evaluate --real DATA --fake DATA --json /dev/null", "expected a file or a folder"),
        (f"{SPOTS} --checkpoint nowhere --backgrounds PARTS", f"{NOTHING}, expected card.json"),
        (f"{SPOTS} --checkpoint EXPORT --backgrounds nowhere", "nowhere: no such file or folder"),
        ("generate --checkpoint EXPORT --backgrounds PARTS --defect Spots --out RUN", "not empty"),
        ("generate --checkpoint EXPORT --defect Spots --defect Scratches --out OUT", "twice"),
        (f"{STUDY} --plan /dev/zero", "--plan"),
        *((f"{TRAIN} --{line}", expected) for line, expected in WRONG_TRAINING),
        *((f"{GENERATE} --{line}", expected) for line, expected in WRONG_GENERATING),
        *((f"{SAMPLES} --{line}", expected) for line, expected in WRONG_SAMPLES),
        ("trial\nby\nline", "invalid choice"),
    ],
)
def test_a_wrong_line_ends_in_one_line(line, expected, places, capsys):
    assert expected in failure(capsys, *filled(line, places))
    assert not Path(places["OUT"]).exists()


def test_a_picture_that_fills_the_memory_is_refused(places, capsys, monkeypatch):
    monkeypatch.setattr("dtgan_lab.cli.commands.LARGEST", 30_000)
    line = "samples --checkpoint EXPORT --data DATA --split train --out OUT"
    told = failure(capsys, *filled(line, places))
    assert "would be" in told and "expected at most 10,000 in all; lower --rows or --scale" in told


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        (20_000, "27 images of train would take 0.0 GiB of memory or more, found 0.0 GiB on cpu"),
        (500_000, "an iteration of 1 images would take"),
        (1_500_000, " weights would take"),
    ],
)
def test_training_looks_at_the_memory_first(there, expected, places, capsys, monkeypatch):
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": there}.get)
    told = failure(capsys, *filled(f"{TRAIN} --batch 1", places))
    assert expected in told and "; lower --" in told


@pytest.mark.parametrize(
    ("script", "line", "expected"),
    [
        ("prepare_folder", "--source DATA --anchor '' --out OUT", "--anchor"),
        ("prepare_folder", "--source /dev/zero --anchor good --out OUT", "--source"),
        ("prepare_mvtec", "--source DATA --mapping /dev/zero --out OUT", "--mapping"),
        ("join_datasets", "--data DATA --rename A=B --rename A=C --out OUT", "found A twice"),
        ("join_datasets", "--data DATA --size 8x99999 --out OUT", "--size"),
        ("subset", "--data DATA --keep A/Spots=１ --out OUT", "--keep"),
        ("subset", "--data DATA --keep A/Spots=1 --keep A/Spots=2 --out OUT", "A/Spots: found"),
    ],
)
def test_a_script_refuses_in_one_line(script, line, expected, places, capsys):
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(script).main(filled(line, places))
    (told,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert expected in told
    assert not Path(places["OUT"]).exists()


# --- every option --------------------------------------------------------------------------------
class _Found(Exception):  # noqa: N818
    """Carries the parser of a script."""


def every_parser(monkeypatch: pytest.MonkeyPatch) -> Iterator[argparse.ArgumentParser]:
    """The parsers of all commands, scripts and of the runner, each to be used once."""
    (commands,) = (a for a in make_parser()._actions if isinstance(a, argparse._SubParsersAction))
    yield from commands.choices.values()
    yield runner._parser()

    def caught(self: argparse.ArgumentParser, *_: object) -> NoReturn:
        raise _Found(self)

    for name in SCRIPTS:
        with monkeypatch.context() as patch:
            patch.setattr(Parser, "parse_args", caught)
            with pytest.raises(_Found) as found:
                importlib.import_module(name).parse([])
        yield found.value.args[0]


def hostile_values(action: argparse.Action) -> list[str]:
    """Values that an option must not take, by the default kind of what it takes."""
    assert callable(action.type)
    try:
        kind = type(action.type("1"))
    except argparse.ArgumentTypeError:  # a device; PRODUCT/DEFECT=N; a pattern
        return NOT_A_WORD[:3]
    of_kind = {int: NOT_A_NUMBER, float: NOT_A_NUMBER, str: NOT_A_WORD}
    return NOT_A_PATH if issubclass(kind, Path) else of_kind.get(kind, NOT_A_WORD[:3])


def test_no_option_of_any_command_takes_a_hostile_value(monkeypatch, capsys):
    tried = 0
    for parser in every_parser(monkeypatch):
        for action in parser._actions:
            if action.nargs == 0 or action.type is None:
                continue  # a switch; what a command reads on its own is tried above
            for value in hostile_values(action):
                with pytest.raises(SystemExit) as ended:
                    parser.parse_args([f"{action.option_strings[0]}={value}"])
                told = capsys.readouterr().err.splitlines()
                tried += 1
                assert (ended.value.code, len(told)) == (2, 1), (parser.prog, action.dest, value)
                assert f"argument {action.option_strings[0]}" in told[0], (parser.prog, value)
                assert len(told[0]) < 1000
    assert tried > 700


def test_every_number_of_a_configuration_has_an_end():
    for known in (make_config("tiny"), *(m.PRESETS["tiny"] for m in (biggan, mokady, stylegan2))):
        groups: dict[str, Any] = known.to_json()
        for group, fields in groups.items():
            for name, value in fields.items() if isinstance(fields, dict) else ():
                wrong: dict[type, list[Any]] = {bool: ["7"], int: [-1, 10**10, 2.5]}
                wrong[float] = [-1.5, 1e31, "'x'"]
                for text in wrong.get(type(value), []):
                    with pytest.raises(ValueError, match=name):
                        made = parse_overrides([f"{group}.{name}={text}"], known)
                        type(known).from_json({**groups, group: {**fields, **made[group]}})
    assert all(low < high for low, high in RANGES.values())


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ({"model": {"width": "8"}}, "width is '8'; expected int"),
        ({"model": {"noise": 1}}, "noise is 1; expected bool"),
        ({"train": {"lr": float("nan")}}, "lr is nan; expected 0 to 1"),
    ],
)
def test_a_configuration_has_its_kinds(groups, expected):
    with pytest.raises(ValueError, match=expected):
        make_config("tiny", **groups)


def test_a_device_that_is_there_is_taken(monkeypatch):
    assert device("cpu").type == "cpu"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert device("auto").type == "cuda" and device("cuda:1").index == 1
    with pytest.raises(argparse.ArgumentTypeError, match="found 2 CUDA devices, counted from 0"):
        device("cuda:2")


def test_the_option_that_is_wrong_is_named_without_the_usage(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--dat", "x", "--escape", "\x1b[31m"])
    (told,) = capsys.readouterr().err.splitlines()
    assert "\x1b" not in told
    assert sys.argv[0] not in told


def test_what_a_data_set_says_does_not_steer_the_terminal(tmp_path, capsys, monkeypatch):
    info = write_tiny_dataset(tmp_path / "data") / "dataset.json"
    info.write_text(info.read_text().replace('"tiny"', '"\\u001b]0;x\\u0007"'))

    def diverged(*_: object, **__: object) -> NoReturn:
        raise ValueError("\x1b[2J")

    monkeypatch.setattr("dtgan_core.loop.Loop.run", diverged)
    line = ["train", "--data", tmp_path / "data", "--out", tmp_path / "run", "--preset", "tiny"]
    assert main(list(map(str, line))) == 2
    out, err = capsys.readouterr()
    assert "images of \\x1b]0;x\\x07: 20 iterations" in out and "error: \\x1b[2J" in err
    assert "\x1b" not in out + err


# --- the runner ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--out", "FILE"], "--out: found"),
        (["-p", "SEED=-1"], "SEED: found '-1', expected a whole number from 0"),
        (["-p", f"SEED={2**70}"], "SEED: found"),
        (["-p", "OUT=FILE"], "OUT: found"),
        (["-p", "OUT="], "OUT: found '', expected"),
        (["-p", "DATA=gone"], "DATA: found 'gone', expected a file or folder that exists"),
        (["-p", "DATA=/dev/zero"], "DATA: found"),
        (["-p", "FEATURES=vgg"], "FEATURES: found 'vgg', expected one of domain"),
        (["-p", "PROFILE=huge"], "PROFILE"),
        (["-p", "SEED=1", "-p", "SEED=2"], "expected each name once"),
        (["--only", "99"], "there is no notebook 99"),
        (["--profile", ""], "--profile"),
    ],
)
def test_the_runner_refuses_before_a_notebook_runs(words, expected, places, capsys, monkeypatch):
    monkeypatch.setattr(runner, "execute", lambda *_: pytest.fail("it ran"))
    given = [word.replace("FILE", places["FILE"]) for word in words]
    try:
        status = runner.main([*given, *([] if "--only" in words else ["--only", "05"])])
    except SystemExit as ended:
        status = int(str(ended.code))
    told = capsys.readouterr().err.splitlines()
    assert status in (1, 2)
    assert expected in told[0]
    assert len(told) == (1 if status == 2 or "--only" in words else 2)  # and how many failed
