"""What people read stays short: README's lines and words, and the prose of every notebook.

A limit may be lowered when what it counts has become shorter; it is never raised.
"""

import json
import re
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


class Size(NamedTuple):
    """Words of all text, of the longest sentence, of the longest paragraph."""

    words: int
    sentence: int
    paragraph: int


MOST = Size(1500, 30, 80)  # of every notebook
README = {"lines": 150, "words": 1100}  # blocks of code left out


def passages(markdown: str) -> list[str]:
    """Paragraphs, headings, items of lists and cells of tables; code and formulas are no prose."""
    text = re.sub(r"^```.*?^```|\$\$.*?\$\$", "", markdown, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"<[^>]+>|\]\([^)]*\)|!\[|\[", " ", text)  # tags, and where links lead
    found = re.split(r"\n\s*\n|\n(?=\s*(?:#|>|\||[-*] |\d+\. ))|(?<=\|)", text)
    return [block for block in found if words(block)]


def everything(markdown: str) -> int:
    """Whatever stands between blanks, tables and folded answers included, but no blocks of code."""
    return len(re.sub(r"^```.*?^```", "", markdown, flags=re.DOTALL | re.MULTILINE).split())


def words(text: str) -> int:
    """Its words and numbers: signs alone, such as a dash or a table's lines, do not count."""
    return sum(any(map(str.isalnum, word)) for word in text.split())


def sentences(passage: str) -> list[str]:
    """Parted where a point, a question or an exclamation mark has a capital behind it."""
    plain = re.sub(r"\b(et al|Fig|App|Eq|vs|e\.g|i\.e)\.", r"\1", passage.replace("*", ""))
    return re.split(r"(?<=[.!?])[\")]*\s+(?=[\"(`$]*[A-Z])", plain)


def size_of(markdown: str) -> Size:
    """How much there is to read."""
    found = passages(markdown)
    longest = max((words(s) for passage in found for s in sentences(passage)), default=0)
    return Size(everything(markdown), longest, max(map(words, found), default=0))


def prose_of(notebook: Path) -> list[str]:
    """The text of its cells that are no code."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_short(path):
    size = size_of("\n\n".join(prose_of(path)))
    assert all(n <= most for n, most in zip(size, MOST, strict=True)), (path.name, size, MOST)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_begin_with_a_result_and_ask_the_reader(path):
    first, *rest = prose_of(path)
    box = re.findall(r"^\| \*\*(Paper|Here|Verdict)\*\* \| (.+) \|$", first, re.MULTILINE)
    assert [name for name, _ in box] == ["Paper", "Here", "Verdict"], "three lines on top"
    assert box[-1][1][0] in "🟢🟡🔴⚪"
    text = "\n".join(rest)
    asked = text.count("**Predict first.**")
    assert asked >= 1 and text.count("<details>") == text.count("</details>") >= asked
    assert re.search(r"\*\*Exercises\*\*.*\n\n1\. .*\n(.*\n)*?2\. ", text)
    assert "**Next**" in text


def decided() -> dict[str, str]:
    """The colour of every notebook by the scoreboard: its last run counted the claims."""
    text = NOTEBOOKS[13].read_text(encoding="utf-8")
    rows = re.findall(r'"\| (.) `(.+)` \|', text)
    return {name: colour for colour, name in rows}


def test_the_readme_names_every_notebook_with_its_colour():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| (.) \[\d\d\]\(notebooks/(.+)\.ipynb\)", text, re.MULTILINE)
    boxes = {path.stem: prose_of(path)[0].split("**Verdict** | ")[1][0] for path in NOTEBOOKS}
    assert [name for _, name in listed] == list(boxes)
    assert {name: colour for colour, name in listed} == boxes == decided()


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    size = {"lines": text.count("\n"), "words": everything(text)}
    assert all(size[key] <= most for key, most in README.items()), ("README.md", size, README)


def test_what_is_long_is_found():
    text = "# One two\n\nOne two. Three four five, e.g. six? Seven.\n- a b\n```\ncode\n```\n|c|d|"
    assert size_of(text) == Size(15, 5, 8)
    assert size_of(text.replace("Seven", "Seven" + " more" * 90)) == Size(105, 91, 98)
    assert size_of("[two words](a/link.md), $x$ **and** <b>three</b> more") == Size(6, 6, 6)
    assert everything("| a | b |") == 5
