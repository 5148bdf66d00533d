"""Ranges, pins and the conda file agree; .venv is built when, and only when, it has to be."""

import hashlib
import os
import re
import shutil
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA_NAMES = {"pytorch": "torch"}


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def wanted() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"]["dev"]
    return [Requirement(text) for text in [*PROJECT["dependencies"], *extras]]


# the files agree


def test_pins_are_plain_versions_lie_in_the_ranges_and_belong_together():
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert line.startswith("#") or re.fullmatch(r"[\w.-]+==[0-9][\w.]*", line), line
    found = pins()
    for requirement in wanted():
        version = found[canonicalize_name(requirement.name)]
        assert version in requirement.specifier, f"{requirement} against the pin {version}"
    torch, vision = Version(pins()["torch"]), Version(pins()["torchvision"])
    assert (torch.major, vision.major) == (2, 0)
    assert vision.minor == torch.minor + 15


def test_every_package_that_comes_along_is_pinned():
    found = pins()
    todo, seen = wanted(), set()
    while todo:
        requirement = todo.pop()
        key = (canonicalize_name(requirement.name), *sorted(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        assert key[0] in found, f"{requirement} is not in constraints.txt"
        for text in metadata.requires(requirement.name) or []:
            inner = Requirement(text)
            extras, marker = ["", *requirement.extras], inner.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
                todo.append(inner)
    assert len(seen) > 50  # the walk went somewhere


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        ("torch", ["2.11.0", "2.12.1", "2.13.1"], ["2.10.0", "2.13.0", "2.13.0+cpu", "2.14.0"]),
        ("torchvision", ["0.26.0", "0.28.0"], ["0.25.0", "0.29.0"]),
        ("scipy", ["1.13.0", "1.17.1"], ["1.12.0", "1.18.0"]),
        ("clean-fid", ["0.1.35"], ["0.1.36"]),
    ],
)
def test_ranges_keep_known_traps_out(name, inside, outside):
    specifier = next(one.specifier for one in wanted() if one.name == name)
    assert [version for version in inside if version not in specifier] == []
    assert [version for version in outside if version in specifier] == []


def test_conda_has_the_same_packages_and_ranges_and_the_citation_the_version():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (from_pip,) = [entry["pip"] for entry in conda if isinstance(entry, dict)]
    lines = [entry for entry in conda if isinstance(entry, str)] + from_pip
    assert "-e ." in lines and "pip" in lines
    found = {}
    for line in lines:
        if line not in ("pip", "-e ."):
            requirement = Requirement(line)
            found[CONDA_NAMES.get(requirement.name, requirement.name)] = requirement.specifier
    assert found.pop("python") == Requirement(f"python{PROJECT['requires-python']}").specifier
    ranges = map(Requirement, PROJECT["dependencies"])
    assert found == {requirement.name: requirement.specifier for requirement in ranges}
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]


# .venv, with a stand-in for Python that writes down how it was called

STAND_IN = """#!/usr/bin/env bash
echo "$*" >>"$CALLS"
case "$*" in
    *"import venv"*) [[ -z ${NO_VENV:-} ]] || exit 1 ;;
    *version_info\\[:2\\]*) echo "${VERSION:-3.11}" ;;
    *"sys.version_info <"*) [[ ${VERSION:-3.11} != 3.10 ]] || exit 1 ;;
    --version) echo "Python ${VERSION:-3.11}" ;;
    "-m venv .venv") mkdir -p .venv/bin && touch .venv/pyvenv.cfg && cp "$0" .venv/bin/python ;;
    "-m pip install"*) [[ -z ${PIP_FAILS:-} ]] || exit 1 ;;
    *) echo "unexpected call: $*" >&2; exit 9 ;;
esac
"""


class Checkout:
    """A copy of the plumbing with a stand-in Python."""

    def __init__(self, root: Path):
        self.root = root
        self.calls = root / "calls.txt"
        for name in ("Makefile", "constraints.txt", "pyproject.toml", "tools/make_venv.sh"):
            target = root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target)
        self.python = root / "stand-in"
        self.python.write_text(STAND_IN)
        self.python.chmod(0o755)
        self.stamp = root / ".venv" / "dtgan-stamp"

    def make(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run `make`, and leave in `calls` only what this run has called."""
        self.calls.write_text("")
        inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        return subprocess.run(
            ["make", *(arguments or ("venv", f"PYTHON={self.python}"))],
            cwd=self.root,
            env={**inherited, "CALLS": str(self.calls), **environment},
            capture_output=True,
            text=True,
        )

    def built(self) -> bool:
        return "-m venv .venv" in self.calls.read_text()

    def installed(self) -> bool:
        return "-m pip install" in self.calls.read_text()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_venv_is_built_once_from_the_pins(checkout):
    done = checkout.make()
    assert done.returncode == 0, done.stderr
    assert checkout.built()
    assert "-c constraints.txt -e .[dev]" in checkout.calls.read_text()
    names = ("constraints.txt", "pyproject.toml")
    pinned = b"".join((checkout.root / name).read_bytes() for name in names)
    assert checkout.stamp.read_text().strip() == hashlib.sha256(pinned).hexdigest()
    again = checkout.make()
    assert (again.returncode, again.stdout) == (0, "")
    assert checkout.calls.read_text() == ""


def test_changed_pins_are_installed_into_the_venv_that_is_there_or_it_starts_over(checkout):
    checkout.make()
    with (checkout.root / "constraints.txt").open("a") as file:
        file.write("newer==1.0\n")
    assert checkout.make().returncode == 0
    assert checkout.installed() and not checkout.built()
    checkout.make()
    assert not checkout.installed()
    # an interrupted refresh starts over
    with (checkout.root / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    assert checkout.make(PIP_FAILS="1").returncode != 0
    assert checkout.make().returncode == 0
    assert checkout.built()


def test_interrupted_build_starts_over(checkout):
    failed = checkout.make(PIP_FAILS="1")
    assert failed.returncode != 0
    assert "run the same command again" in failed.stderr
    assert not checkout.stamp.exists()
    leftover = checkout.root / ".venv" / "half"
    leftover.touch()
    assert checkout.make().returncode == 0
    assert checkout.built() and checkout.stamp.exists()
    assert not leftover.exists()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"NO_VENV": "1"}, "has no venv module: install it (Debian, Ubuntu: sudo apt install"),
        ({"VERSION": "3.10"}, "is Python 3.10, the kit needs 3.11 or newer"),
    ],
)
def test_unfit_python_gives_one_line(checkout, environment, expected):
    for target in ("quickstart", "test", "test-slow", "notebooks", "lab", "lint", "format"):
        done = checkout.make(target, f"PYTHON={checkout.python}", **environment)
        assert done.returncode != 0
        (line,) = (done.stdout + done.stderr).splitlines()
        assert expected in line
        assert "PYTHON=python3.12" in line
        assert not (checkout.root / ".venv").exists()


def test_help_builds_nothing_and_a_missing_python_and_a_strange_folder_are_told(checkout):
    told = checkout.make("--no-print-directory", "help").stdout
    names = "quickstart lab notebooks test test-slow lint format clean"
    assert all(f"make {name}" in told for name in names.split())
    assert checkout.make("-n").stdout == checkout.make("-n", "help").stdout
    assert not (checkout.root / ".venv").exists()
    done = checkout.make("test", "PYTHON=python9.9")
    (line,) = (done.stdout + done.stderr).splitlines()
    assert done.returncode != 0
    assert "python9.9 was not found: install Python 3.11" in line
    precious = checkout.root / ".venv" / "thesis.txt"
    precious.parent.mkdir()
    precious.write_text("mine")
    done = checkout.make()
    assert done.returncode != 0
    assert "is not a Python environment" in done.stderr
    assert precious.read_text() == "mine"
