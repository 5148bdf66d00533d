"""docs/preparing_data.md: its scripts take its options, and print what it says."""

import re
import shlex
from pathlib import Path

import prepare_folder
import prepare_mvtec
import prepare_sdi
from tests.data.folder_fixtures import png, write_tree

PAGE = Path(__file__).resolve().parents[2] / "docs" / "preparing_data.md"
BLOCKS = re.findall(r"```(bash)?\n(.*?)```", PAGE.read_text(), re.DOTALL)


def commands(program: str) -> list[list[str]]:
    """The arguments of every command on the page that calls a program."""
    lines = "".join(text for kind, text in BLOCKS if kind).replace("\\\n", " ").splitlines()
    return [
        shlex.split(line.split(program, 1)[1], comments=True) for line in lines if program in line
    ]


def test_the_printed_tables_are_what_the_script_prints(tmp_path, capsys, monkeypatch):
    files = {f"good/A-Normal-train-{i:05d}.png": png(i, (64, 64)) for i in range(60)}
    files |= {f"scratched/A-Scratches-train-{i:05d}.png": png(99 + i, (64, 64)) for i in range(40)}
    files["scratched/again.png"] = files["scratched/A-Scratches-train-00000.png"]
    files |= {"notes.txt": b"ask Jo\n", "good/half.png": png(0, (64, 64))[:200]}
    write_tree(tmp_path / "my_parts", files)
    monkeypatch.chdir(tmp_path)
    words = commands("data_scripts/prepare_folder.py")[0]
    said = [text for kind, text in BLOCKS if not kind]
    assert prepare_folder.main(words) == 0
    assert capsys.readouterr().out == said[0]
    words.remove("--dry-run")
    assert prepare_folder.main(words) == 0
    assert capsys.readouterr().out.endswith(said[1])
    assert prepare_folder.main(words) == 0
    assert capsys.readouterr().out.startswith(said[2])


def test_the_public_sets_are_called_as_their_scripts_want(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (sdi,) = commands("data_scripts/prepare_sdi.py")
    assert prepare_sdi.main([*sdi, "--dry-run"]) == 0
    assert "would download 1,647,097,112 bytes" in capsys.readouterr().out
    (mvtec,) = commands("data_scripts/prepare_mvtec.py")
    assert prepare_mvtec.main([*mvtec, "--dry-run"]) == 1
    assert "downloads: not found" in capsys.readouterr().err
