"""The site: its links, its buttons, and the explorer of its page in a headless Chromium.

It is built once, of the committed notebooks and weights: nothing is run, so it takes half a minute.
What may be missing is named where it is asked for: npm (onnxruntime-web), a Chromium.
"""

import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import nbformat
import numpy as np
import pytest
from bs4 import BeautifulSoup
from PIL import Image

sync_api = pytest.importorskip("playwright.sync_api")
make_site = pytest.importorskip("tools.make_site", exc_type=ImportError)
from tests.test_browser import ARGUMENTS, PATIENCE, chromium  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = "notebooks/07_style_sweeps"
MOVES = 5


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as a workflow of GitHub builds it."""
    if make_site.wrong_files() and not shutil.which("npm"):
        pytest.skip("no npm found, which brings onnxruntime-web: install npm")
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools/make_site.py"), str(out)],
        env={**os.environ, "GITHUB_REPOSITORY": "someone/kit", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr, done.stderr
    return out


def pages(site: Path) -> dict[Path, BeautifulSoup]:
    """The parsed pages; what lies in _static are the theme's templates."""
    files = (file for file in sorted(site.rglob("*.html")) if "_static" not in file.parts)
    return {file: BeautifulSoup(file.read_bytes(), "html.parser") for file in files}


def test_links_lead_somewhere(site):
    found = pages(site)
    names = {page: {tag["id"] for tag in soup.find_all(id=True)} for page, soup in found.items()}
    lost, followed = [], 0
    for page, soup in found.items():
        for tag in soup.select("a[href], link[href], img[src], script[src]"):
            link = urlsplit(str(tag.get("href") or tag.get("src")))
            if link.scheme or link.netloc:
                continue
            target = (page.parent / unquote(link.path)).resolve() if link.path else page
            known = names.get(target, set()) | {""} if target.suffix == ".html" else None
            if not target.is_file() or (known and unquote(link.fragment) not in known):
                lost.append(f"{page.relative_to(site)}: {link.geturl()}")
            followed += 1
    assert not lost
    assert followed > 1000


def test_a_notebook_can_be_found_opened_and_taken_along(site):
    assert "explor" in (site / "searchindex.js").read_text(encoding="utf-8")
    soup = BeautifulSoup((site / f"{NOTEBOOK}.html").read_bytes(), "html.parser")
    links = [str(tag["href"]) for tag in soup.select("a[href]")]
    colab = "https://colab.research.google.com/github/someone/kit/blob/gh-pages/_sources"
    assert f"{colab}/{NOTEBOOK}.ipynb" in links
    assert any(link.startswith("https://mybinder.org/v2/gh/someone/kit/main?") for link in links)
    assert f"../_sources/{NOTEBOOK}.ipynb" in links
    copy = nbformat.read(site / f"_sources/{NOTEBOOK}.ipynb", as_version=4)
    ours = nbformat.read(ROOT / f"{NOTEBOOK}.ipynb", as_version=4)
    assert "https://github.com/someone/kit" in copy.cells[0].source
    assert [cell.source for cell in copy.cells[1:]] == [cell.source for cell in ours.cells]
    assert soup.select(".cell_output img")


# --- in the browser ------------------------------------------------------------------------------
class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def browser(site: Path) -> Iterator[tuple[Any, str]]:
    """A Chromium, and the address of the site on the loopback."""
    program = chromium()
    if program is None:
        pytest.skip("no Chromium found: install one, or name it in DTGAN_CHROMIUM")
    handler = functools.partial(_Quiet, directory=str(site))
    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server,
        sync_api.sync_playwright() as playwright,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        opened = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield opened, f"http://127.0.0.1:{server.server_port}"
        opened.close()
        server.shutdown()


@pytest.fixture
def page(browser: tuple[Any, str]) -> Iterator[Any]:
    """The explorer, painted; no error may stand in the console, nothing outside may be asked."""
    opened, address = browser
    shown = opened.new_page(viewport={"width": 1280, "height": 1000})
    shown.set_default_timeout(PATIENCE)
    faults: list[str] = []
    shown.on("console", lambda line: faults.append(line.text) if line.type == "error" else None)
    shown.on("pageerror", lambda error: faults.append(str(error)))
    shown.on(
        "request",
        lambda asked: (
            None if asked.url.startswith((address, "blob:")) else faults.append(asked.url)
        ),
    )
    shown.goto(f"{address}/site/explorer.html")
    shown.locator("#result[data-count]").wait_for()
    yield shown
    shown.close()
    assert not faults


def pixels(page: Any, name: str) -> np.ndarray:
    """What a canvas shows, (64, 64) of the red channel."""
    script = "c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
    values = np.array(page.locator(f"#{name}").evaluate(script), dtype=np.int64)
    side = int((len(values) / 4) ** 0.5)
    return values.reshape(side, side, 4)[..., 0]


def painted(page: Any, act: Any) -> float:
    """Do something; milliseconds that the picture it led to took."""
    result = page.locator("#result")
    before = int(result.get_attribute("data-count"))
    act()
    page.wait_for_function(
        "before => Number(document.getElementById('result').dataset.count) > before", arg=before
    )
    return float(result.get_attribute("data-ms"))


def middle_of_change(part: np.ndarray, result: np.ndarray) -> float:
    """The column about which what changed lies."""
    weight = ((result - part) ** 2).sum(axis=0)
    return float((np.arange(len(weight)) * weight).sum() / weight.sum())


def test_sliders_and_dragging_change_the_picture(page):
    # a style of the committed model changes spots alone
    painted(page, lambda: page.locator("#defect").select_option(label="Spots"))
    part, result, mask = (pixels(page, name) for name in ("part-picture", "result", "mask"))
    assert np.abs(result - part)[mask > 200].mean() > np.abs(result - part)[mask < 20].mean() + 2
    waits = [
        painted(page, lambda: page.locator("#blend").press("ArrowRight")) for _ in range(MOVES)
    ]
    print(f"\nslider to picture: median {np.median(waits):.0f} ms, least {min(waits):.0f} ms")
    painted(page, lambda: page.locator("#blend").press("End"))
    assert (pixels(page, "result") != result).any()
    assert (pixels(page, "part-picture") == part).all()

    painted(page, lambda: page.locator("#blend").press("Home"))
    box = page.locator("#result").bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*middle)
    page.mouse.down()
    before = middle_of_change(part, result)
    right = 8 if before < 32 else -8  # pixels of the image, towards its middle
    to = middle[0] + right * box["width"] / 64
    painted(page, lambda: page.mouse.move(to, middle[1]))
    page.mouse.up()
    assert page.locator("#right").input_value() == str(right)
    assert abs(middle_of_change(part, pixels(page, "result")) - before - right) < 4
    painted(page, lambda: page.locator("#back").press("Enter"))
    assert (pixels(page, "result") == result).all()
    painted(page, lambda: page.locator("#result").press("ArrowDown"))
    assert page.locator("#down").input_value() == "1"
    assert (pixels(page, "result") != result).any()


def test_pictures_of_ones_own_stay_in_the_browser(page, tmp_path):
    Image.fromarray(np.tile(np.arange(200, dtype=np.uint8), (150, 1))).save(tmp_path / "ramp.png")
    (tmp_path / "text.png").write_text("no picture")
    first = pixels(page, "result")
    painted(page, lambda: page.locator("#source").select_option("reference"))
    assert (pixels(page, "result") != first).any() and pixels(page, "source-picture").any()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    painted(page, lambda: page.locator("#own-part").set_input_files(tmp_path / "ramp.png"))
    ramp = pixels(page, "part-picture")
    assert np.abs(ramp.mean(axis=0) - np.linspace(1, 198, 64)).max() < 3
    painted(page, lambda: page.locator("#own-reference").set_input_files(tmp_path / "ramp.png"))
    assert (pixels(page, "source-picture") == ramp).all()
    page.locator("#own-part").set_input_files(tmp_path / "text.png")
    page.get_by_text("text.png: found no picture that this browser reads").wait_for()
    assert not asked


def test_a_phone_and_a_reader_by_ear_can_use_it(page):
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    unnamed = page.evaluate(
        "[...document.querySelectorAll('#explorer input, #explorer select')]"
        ".filter(one => !one.labels.length).map(one => one.id)"
    )
    assert unnamed == []
    assert page.locator("#explorer canvas:not([aria-label])").count() == 0


def test_a_browser_without_webassembly_is_told(browser):
    opened, address = browser
    shown = opened.new_page()
    shown.add_init_script("delete globalThis.WebAssembly")
    shown.goto(f"{address}/site/explorer.html")
    shown.get_by_text("This browser has no WebAssembly").wait_for(timeout=PATIENCE)
    shown.close()


def test_a_notebook_opens(browser):
    opened, address = browser
    shown = opened.new_page()
    errors: list[str] = []
    shown.on("pageerror", lambda error: errors.append(str(error)))
    shown.goto(f"{address}/{NOTEBOOK}.html", wait_until="domcontentloaded")
    assert shown.locator("h1").first.inner_text().startswith("07")
    picture = shown.locator(".cell_output img").first
    picture.scroll_into_view_if_needed()
    assert picture.evaluate("one => one.decode().then(() => one.naturalWidth)") > 100
    shown.close()
    assert not errors


# --- Colab ---------------------------------------------------------------------------------------
@pytest.mark.slow  # builds an environment and installs the kit into it
def test_the_first_cell_installs_the_kit_where_it_is_not(tmp_path):
    """As in Colab: the packages that the kit builds on are there, the kit is not."""
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env/bin/python"
    query = "import site; print(site.getsitepackages()[0])"
    packages = [
        Path(subprocess.check_output([program, "-c", query], text=True).strip())
        for program in (sys.executable, python)
    ]
    for path in packages[0].iterdir():
        if not (packages[1] / path.name).exists() and "dtgan" not in path.name:
            (packages[1] / path.name).symlink_to(path)
    work = tmp_path / "content"
    work.mkdir()
    check = "import dtgan_lab, os; print(dtgan_lab.__file__, os.path.isdir('notebooks'))"
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(code: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [python, "-c", code], cwd=work, env=bare, capture_output=True, text=True
        )

    assert "No module named 'dtgan_lab'" in run(check).stderr
    done = run(f"{make_site.INSTALL.format(address=f'file://{ROOT}')}\n{check}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(work / "dtgan-kit/dtgan_lab/__init__.py"), "True"]
    again = run(f"{make_site.INSTALL.format(address='file:///nowhere')}\n{check}")
    assert again.returncode == 0, again.stderr  # it is there now: nothing is fetched
