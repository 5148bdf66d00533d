"""Small folders of pictures, each different, that the tests of the preparing scripts read."""

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image


def picture(number: int, size: tuple[int, int] = (32, 32), mode: str = "L") -> Image.Image:
    """A noise picture of (width, height) that no other number gives."""
    width, height = size
    shape = (height, width) if mode == "L" else (height, width, 3)
    noise = np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)
    return Image.fromarray(noise)


def png(number: int, size: tuple[int, int] = (32, 32), mode: str = "L") -> bytes:
    """The same as the bytes of a PNG."""
    buffer = io.BytesIO()
    picture(number, size, mode).save(buffer, "PNG")
    return buffer.getvalue()


def mask_png(size: tuple[int, int] = (32, 32), *boxes: tuple[int, int, int, int]) -> bytes:
    """A mask, white in boxes (left, top, right, bottom), by default in one square."""
    mask = np.zeros(size[::-1], np.uint8)
    for left, top, right, bottom in boxes or ((4, 4, 12, 12),):
        mask[top:bottom, left:right] = 255
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    return buffer.getvalue()


def write_tree(root: Path, files: dict[str, bytes]) -> Path:
    """Write files below a folder; returns the folder."""
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def as_zip(path: Path, members: dict[str, bytes], kind: int = zipfile.ZIP_STORED) -> Path:
    """A zip of members; returns its path."""
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def as_tar(path: Path, members: dict[str, bytes], kind: bytes = tarfile.REGTYPE) -> Path:
    """A tar, packed as its suffix says."""
    packed = path.suffix.removeprefix(".").replace("tar", "")
    with tarfile.open(path, f"w:{packed}") as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size, member.type, member.linkname = len(data), kind, "/etc/passwd"
            archive.addfile(member, io.BytesIO(data))
    return path


def pack(path: Path, members: dict[str, bytes]) -> Path:
    """A zip or a tar, as its suffix says."""
    return as_zip(path, members) if path.suffix == ".zip" else as_tar(path, members)


def two_folders(good: int = 12, scratched: int = 10) -> dict[str, bytes]:
    """good/* and scratched/*."""
    files = {f"good/g{i:02d}.png": png(i) for i in range(good)}
    return files | {f"scratched/s{i:02d}.png": png(1000 + i) for i in range(scratched)}


def folder_words(
    source: Path, out: Path, *more: object, anchor: str = "good", size: int = 16
) -> list[str]:
    """What `prepare_folder` is called with, and more words."""
    words = ["--source", source, "--anchor", anchor, "--size", size, "--out", out, *more]
    return [str(word) for word in words]


def left_out(out: Path) -> dict[str, str]:
    """Why files were left out of a data set, by their names."""
    table = pd.read_csv(out / "left_out.csv")
    return dict(zip(table["name"], table["reason"], strict=True))


def tree_bytes(root: Path) -> dict[str, bytes]:
    """All files below a folder, hidden ones too."""
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}
