"""Large downloads that go on where they broke off, and are checked before anybody reads them."""

from __future__ import annotations

import http
import http.client
import os
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from dtgan_core.dataset import DatasetError
from dtgan_core.files import NO_PLAIN_FILE, sha256_of, sync_folder

_TIMEOUT = 60  # seconds without a byte
_PIECE = 2**20  # bytes
_ATTEMPTS = 5  # in a row without a single new byte
_PAUSE = 1.0  # seconds, times the number of such attempts


def download(url: str, target: Path, *, size: int, sha256: str) -> None:
    """Download a file whose size and hash are known.

    What has arrived lies in `target` with .part behind its name; after an interruption, the next
    call asks for the rest alone (HTTP Range). `target` itself appears only when it is whole.

    A file of that size and hash stays as it is. DatasetError: `target` is another file, the network
    fails (what has arrived is kept), or the bytes are not the expected ones (they are removed).
    OSError: the disk is full; what has arrived is kept.
    """
    if target.exists():
        _check_hash(target, url, size, sha256)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    if part.exists() and not part.is_file():  # opening a pipe would wait for ever
        raise DatasetError(f"{part}: {NO_PLAIN_FILE}; delete it")
    with open(part, "ab") as file:
        if file.tell() > size:
            file.seek(file.truncate(0))
        with tqdm(
            total=size,
            initial=file.tell(),
            desc=f"downloading {target.name}",
            unit="B",
            unit_scale=True,
            disable=None,
        ) as bar:
            _fill(url, file, size, bar)
        file.flush()
        os.fsync(file.fileno())
    _check_hash(part, url, size, sha256, remove=True)
    os.replace(part, target)
    sync_folder(target.parent)


def _fill(url: str, file: BinaryIO, size: int, bar: tqdm) -> None:
    """Append to `file` until it has `size` bytes."""
    fruitless = 0
    while file.tell() < size:
        before = file.tell()
        try:
            _fetch(url, file, size, bar)
            trouble = "the server closed the connection"
        except urllib.error.HTTPError as error:
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                file.seek(file.truncate(0))  # what is there belongs to another file
            raise _failure(url, f"HTTP {error.code} {error.reason}", file, size) from error
        except (
            urllib.error.URLError,
            http.client.HTTPException,
            ConnectionError,
            ssl.SSLError,
        ) as error:
            trouble = str(error)
        except TimeoutError:
            trouble = f"no byte in {_TIMEOUT} s"
        fruitless = 0 if file.tell() > before else fruitless + 1
        if fruitless == _ATTEMPTS:
            raise _failure(url, trouble, file, size)
        time.sleep(_PAUSE * fruitless)


def _failure(url: str, trouble: str, file: BinaryIO, size: int) -> DatasetError:
    return DatasetError(
        f"{url}: the download failed ({trouble}) at {file.tell():,} of {size:,} bytes; run the "
        "same command again to go on from there, or download the file with a browser and name it "
        "with --source"
    )


def _fetch(url: str, file: BinaryIO, size: int, bar: tqdm) -> None:
    """One request for what is missing, appended as it comes."""
    start = file.tell()
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"})
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
        given = answer.headers.get("Content-Range", "")
        if answer.status != 206 or not given.startswith(f"bytes {start}-"):
            file.truncate(0)  # the server sends the whole file
            file.seek(0)
            bar.update(-start)
        # One byte more than expected is enough to know that it is another file.
        while data := answer.read(min(_PIECE, size + 1 - file.tell())):
            file.write(data)
            bar.update(len(data))
            if file.tell() > size:
                break


def _check_hash(path: Path, url: str, size: int, sha256: str, remove: bool = False) -> None:
    found_size = path.stat().st_size
    found = sha256_of(path)
    if found_size == size and found == sha256:
        return
    if remove:
        path.unlink()
    raise DatasetError(
        f"{path}: {found_size:,} bytes of sha256 {found}, expected {size:,} bytes of {sha256}; "
        + ("removed; run the same command again" if remove else f"delete it to load {url} again")
    )
