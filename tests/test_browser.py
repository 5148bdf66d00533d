"""The explorer in JupyterLab, in a headless Chromium: a slider is moved by the keyboard.

Needs a Chromium: `apt-get install chromium`, `playwright install chromium`, or any other whose path
stands in DTGAN_CHROMIUM.  Skipped where there is none.  Nothing outside this machine is reached.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest

from tests.core_fixtures import write_tiny_export

sync_api = pytest.importorskip("playwright.sync_api")
ROOT = Path(__file__).resolve().parents[1]
TOKEN = "explorer-test"
PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 120_000  # milliseconds; a busy core starts JupyterLab slowly
MOVES = 5
CELL = """
from dtgan_lab.explorer.view import explore
from dtgan_lab.explorer.model import ExplorerModel, Gallery
from tests.core_fixtures import tiny_store

store = tiny_store()
pick = lambda defect: store.to_float((store.defects == defect).nonzero().flatten()[:3])
gallery = Gallery({"A": pick(0)}, {"Scratches": pick(1), "Spots": pick(2)})
view = explore(ExplorerModel({"tiny": "EXPORT"}, gallery), "kept")
view
"""


def chromium() -> str | None:
    """Path of an installed Chromium: named, on the path, or Playwright's own."""
    named = os.environ.get("DTGAN_CHROMIUM")
    if named:
        return named
    found = next((path for name in PROGRAMS if (path := shutil.which(name))), None)
    if found:
        return found
    with sync_api.sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    return own if Path(own).is_file() else None


@contextmanager
def jupyterlab(folder: Path) -> Iterator[str]:
    """JupyterLab on the loopback alone, its settings in `folder`; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    environment = {**os.environ, "HOME": str(folder), "PYTHONPATH": str(ROOT)}
    environment |= {"JUPYTER_PREFER_ENV_PATH": "1"}
    news = folder / ".jupyter/lab/user-settings/@jupyterlab/apputils-extension"
    news.mkdir(parents=True)
    news /= "notification.jupyterlab-settings"
    news.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    command = [
        *(sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root"),
        *("--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0"),
        f"--IdentityProvider.token={TOKEN}",
        f"--ServerApp.root_dir={folder}",
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    log = folder / "server.log"
    with (
        log.open("wb") as told,
        subprocess.Popen(command, env=environment, stdout=told, stderr=told, cwd=folder) as server,
    ):
        try:
            _wait_for(f"http://127.0.0.1:{port}/api?token={TOKEN}", server, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def _wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE / 1000
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Any]:
    """A page with the explorer of a tiny model on it, run."""
    program = chromium()
    if program is None:
        pytest.skip("no Chromium found: install one, or name it in DTGAN_CHROMIUM")

    cell = CELL.replace("EXPORT", str(write_tiny_export(tmp_path / "export")))
    notebook = nbformat.v4.new_notebook()
    notebook.metadata["kernelspec"] = {
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "name": "python3",
    }
    notebook.cells = [nbformat.v4.new_code_cell(cell.strip())]
    nbformat.write(notebook, tmp_path / "explorer.ipynb")
    with jupyterlab(tmp_path) as address, sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        try:
            shown = browser.new_page(viewport={"width": 1500, "height": 1100})
            shown.set_default_timeout(PATIENCE)
            shown.goto(f"{address}/lab/tree/explorer.ipynb?token={TOKEN}")
            run_all(shown)
            yield shown
        finally:
            browser.close()


def run_all(page: Any) -> None:
    """Click into the notebook's cell and run it; wait for the panel."""
    page.locator(".jp-NotebookPanel-notebook").wait_for()
    page.get_by_text("| Idle").wait_for()  # a cell run before the kernel is there stays unrun
    page.locator(".jp-CodeCell .cm-content").first.click()
    page.keyboard.press("Shift+Enter")
    page.locator("img.widget-image").first.wait_for()


def picture_of(page: Any, title: str) -> Any:
    """The picture below a title of the panel."""
    return page.locator(".widget-vbox", has=page.get_by_text(title, exact=True)).last.locator("img")


def slider(page: Any, label: str) -> Any:
    """The handle of a slider, which the keyboard reaches."""
    row = page.locator(".widget-hslider", has=page.get_by_text(label, exact=True))
    return row.first.locator(".noUi-handle")


def wait_until_changed(page: Any, image: Any, before: str) -> None:
    page.wait_for_function(
        "([image, before]) => image.src !== before", arg=[image.element_handle(), before]
    )


def test_a_slider_moved_by_the_keyboard_changes_the_picture(page, tmp_path):
    result, part = picture_of(page, "the result"), picture_of(page, "the part")
    before, part_before = result.get_attribute("src"), part.get_attribute("src")
    handle = slider(page, "left to right")
    handle.focus()
    waits = []
    for _ in range(MOVES):
        shown = result.get_attribute("src")
        began = time.perf_counter()
        page.keyboard.press("ArrowRight")
        wait_until_changed(page, result, shown)
        waits.append(1000 * (time.perf_counter() - began))
    print(
        f"\nkey to picture: median {np.median(waits):.0f} ms, p95 {np.quantile(waits, 0.95):.0f} ms"
    )
    assert result.get_attribute("src") != before
    assert part.get_attribute("src") == part_before  # what is unchanged is not sent again
    assert result.bounding_box() == {**result.bounding_box(), "width": 192, "height": 192}
    page.get_by_role("button", name="Keep this picture").press("Enter")
    page.get_by_text("Kept, 1 so far").wait_for()
    page.get_by_role("button", name="Export what was kept").press("Enter")
    page.get_by_text("manifest.csv are in").wait_for()
    assert (tmp_path / "kept" / "manifest.csv").is_file()
    for kind in ("stderr", "error"):
        shown = page.locator(f"[data-mime-type='application/vnd.jupyter.{kind}']")
        assert shown.count() == 0
