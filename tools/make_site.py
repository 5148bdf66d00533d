"""Build the site in build/site: pages by Sphinx, and what the explorer runs in the browser.

    tools/make_site.py [OUT]

The explorer needs onnxruntime-web (from npm, the files below, checked by their hashes and served
from the site itself), the networks as ONNX, and some parts and references, drawn here.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
import numpy as np
from PIL import Image
from sphinx.cmd.build import build_main

from dtgan_core.synthesis import Synthesizer, to_uint8
from dtgan_lab.export.onnx import export_onnx
from dtgan_lab.measure.yardsticks import fresh_gallery

ROOT = Path(__file__).resolve().parents[1]
PARTS = ROOT / "build" / "site-parts" / "explorer"
CHECKPOINT = ROOT / "notebooks" / "checkpoints" / "composed-laptop"
RUNTIME = "onnxruntime-web@1.30.0"  # MIT
RUNTIME_FILES = {  # name -> sha256
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": (
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2"
    ),
}
SEED, A_CELL = 9, 4  # of the pictures to choose from: in no split, so never trained on
INSTALL = """# Installs the kit where it is not there, as in Colab.
import importlib.util, os, subprocess, sys

if importlib.util.find_spec("dtgan_lab") is None:
    subprocess.run(["git", "clone", "-q", "--depth", "1", "{address}", "dtgan-kit"], check=True)
    os.chdir("dtgan-kit")
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "-e", "."], check=True)"""


def wrong_files() -> list[str]:
    """Names of the runtime's files that are missing or not the pinned ones."""
    return [
        name
        for name, wanted in RUNTIME_FILES.items()
        if not (PARTS / name).is_file() or sha256((PARTS / name).read_bytes()).hexdigest() != wanted
    ]


def fetch_runtime() -> None:
    """Bring the runtime from npm, unless it is there.

    Raises:
        SystemExit: npm is missing or fails, or brings other files.
    """
    if not wrong_files():
        return
    with TemporaryDirectory() as folder:
        command = ["npm", "pack", "--silent", "--pack-destination", folder, RUNTIME]
        try:
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        except (OSError, subprocess.CalledProcessError) as error:
            sys.exit(
                f"{' '.join(command)}: {error}; the explorer needs npm (Debian: apt install npm)"
            )
        (archive,) = Path(folder).glob("*.tgz")
        with tarfile.open(archive) as packed:
            for name in RUNTIME_FILES:
                member = packed.extractfile(f"package/dist/{name}")
                assert member is not None
                (PARTS / name).write_bytes(member.read())
    if wrong := wrong_files():
        sys.exit(f"{RUNTIME}: {', '.join(wrong)}: not the pinned file; compare tools/make_site.py")


def draw_gallery(synth: Synthesizer) -> None:
    """Parts, a row a product, and references, a row a defect, as one picture each."""
    size = synth.config.model.image_size
    defects = [defect for defect in synth.defects if defect != synth.anchor]
    rows = {
        "parts": [[(product, synth.anchor)] for product in synth.products],
        "references": [[(product, defect) for product in synth.products] for defect in defects],
    }
    for name, cells in rows.items():
        pictures = [to_uint8(fresh_gallery(row, A_CELL, SEED, size).x)[..., 0] for row in cells]
        Image.fromarray(np.vstack([np.hstack(list(row)) for row in pictures])).save(
            PARTS / f"{name}.png"
        )


def let_copies_install(out: Path, address: str) -> None:
    """Put the cell that installs the kit first in every notebook that the site hands out."""
    for path in sorted((out / "_sources" / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        cell = nbformat.v4.new_code_cell(INSTALL.format(address=address), id="install")
        notebook.cells.insert(0, cell)
        nbformat.write(notebook, path)


def main(out: Path = ROOT / "build" / "site") -> int:
    """Build everything; returns Sphinx's exit status."""
    PARTS.mkdir(parents=True, exist_ok=True)
    fetch_runtime()
    synth = Synthesizer.load(CHECKPOINT)
    export_onnx(synth, PARTS)
    draw_gallery(synth)
    status: int = build_main(
        [
            "-q",
            "-c",
            str(ROOT / "site"),
            "-d",
            str(ROOT / "build" / "doctrees"),
            str(ROOT),
            str(out),
        ]
    )
    if status == 0:
        (out / "index.html").write_bytes((out / "README.html").read_bytes())
        if repository := os.environ.get("GITHUB_REPOSITORY"):
            let_copies_install(out, f"https://github.com/{repository}")
        print(f"done: python -m http.server -d {os.path.relpath(out)}")
    return status


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:2])))
