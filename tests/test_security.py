"""SECURITY.md: what it promises of the code can be seen in the code."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dtgan_core.checkpoints import CheckpointError
from dtgan_lab.measure.extractors import load_extractor
from tests.core_fixtures import failure
from tests.distance_fixtures import write_inception_stand_in

ROOT = Path(__file__).resolve().parent.parent
FILES = [
    path
    for folder in ("dtgan_core", "dtgan_lab", "data_scripts", "notebooks", "tools")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
FORBIDDEN = re.compile(
    r"(eval|exec|compile|__import__|os\.(system|popen|exec\w+|spawn\w+)|jit\.load|torch\.jit\.load|"
    r"(c?pickle|_pickle|marshal|shelve|dill|joblib)\.\w+|yaml\.(unsafe_)?load)"
)
RISKY = {"load": "weights_only", "get_state_dict": "weights_only"}  # of torch and torchvision
MODULES = {"torch", "np", "numpy", "wanted", "chosen"}  # the last two: weights of torchvision


def calls(source: str) -> Iterator[tuple[int, str, dict[str, str]]]:
    """Line, name and keywords of every call."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            named = {word.arg: ast.unparse(word.value) for word in node.keywords if word.arg}
            yield node.lineno, ast.unparse(node.func), named


def problems(source: str) -> list[str]:
    """Calls that SECURITY.md says are not there."""
    found = []
    for line, name, named in calls(source):
        module, _, last = name.rpartition(".")
        unsafe = last in RISKY and module in MODULES and named.get(RISKY[last]) != "True"
        shell = named.get("shell", "False") != "False"
        pickled = named.get("allow_pickle", "False") != "False"
        if FORBIDDEN.fullmatch(name) or name.endswith(".read_pickle") or unsafe or shell or pickled:
            found.append(f"{line}: {name}")
    return found


UNSAFE = "pickle.load(f);torch.load(f);torch.load(f, weights_only=False);os.system(x);eval(x)"
UNSAFE += ";subprocess.run(x, shell=True);exec(x);pd.read_pickle(x);np.load(x);torch.jit.load(x)"
UNSAFE += ";chosen.get_state_dict(check_hash=True)"


@pytest.mark.parametrize("source", UNSAFE.split(";"))
def test_the_search_finds(source):
    assert problems(source)
    assert not problems("torch.load(f, weights_only=True); model.eval(); re.compile(x)")


def test_nothing_is_unpickled_and_no_text_becomes_code():
    assert len(FILES) > 100
    found = {path.name: said for path in FILES if (said := problems(path.read_text()))}
    assert found == {}


def test_torchscript_runs_only_where_it_is_known_or_trusted(tmp_path, capsys, monkeypatch):
    weights = write_inception_stand_in(tmp_path / "any name.pt")
    with monkeypatch.context() as patch:
        patch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("it was loaded"))
        with pytest.raises(CheckpointError, match="found the hash .*--trust-weights"):
            load_extractor("inception", weights)
        (tmp_path / "a.png").write_bytes(b"")
        words = ["--features", "inception", "--weights", weights]
        told = failure(capsys, "evaluate", "--real", tmp_path, "--fake", tmp_path, *words)
        assert "TorchScript is a program" in told
    assert load_extractor("inception", weights, trusted=True).name == "inception-unverified"


def test_jupyterlab_keeps_to_this_machine_and_the_page_names_its_test():
    texts = [(ROOT / "Makefile").read_text(), *(path.read_text() for path in FILES)]
    for text in texts:
        assert not re.search(r"(?i)--ip\b|App\.ip\b|\.token|\.password|disable_check_xsrf", text)
    lines = (ROOT / "SECURITY.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) < 60
    assert "tests/test_security.py" in "\n".join(lines)
