"""Downloads from a server on this machine: resumed, repeated, checked."""

import contextlib
import errno
import hashlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

import download as module
from download import download
from dtgan_lab.data import DatasetError

DATA = np.random.default_rng(0).bytes(3_000_000)
SHA256 = hashlib.sha256(DATA).hexdigest()


@dataclass
class Behaviour:
    """What the server does."""

    data: bytes = DATA
    ranges: bool = True  # whether it answers requests for a range
    cuts: list[int] = field(default_factory=list)  # bytes of an answer before it breaks; then all
    status: int = 0  # another than 200 or 206
    asked: list[str] = field(default_factory=list)  # the Range headers that came


@contextlib.contextmanager
def served(behaviour: Behaviour) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range", "")
            behaviour.asked.append(asked)
            start = int(asked.removeprefix("bytes=").removesuffix("-") or 0)
            start = start if behaviour.ranges else 0
            if behaviour.status or start > len(behaviour.data):
                self.send_error(behaviour.status or 416)
                return
            rest = behaviour.data[start:]
            self.send_response(206 if behaviour.ranges else 200)
            if behaviour.ranges:
                end = len(behaviour.data) - 1
                self.send_header("Content-Range", f"bytes {start}-{end}/{end + 1}")
            self.send_header("Content-Length", str(len(rest)))
            self.end_headers()
            cut = behaviour.cuts.pop(0) if behaviour.cuts else len(rest)
            with contextlib.suppress(ConnectionError):  # the client may hang up
                self.wfile.write(rest[:cut])

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/file.zip"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAUSE", 0.0)


def fetch(url: str, target: Path) -> None:
    download(url, target, size=len(DATA), sha256=SHA256)


def test_a_whole_file_comes_once_and_without_ranges_all_is_sent_again(tmp_path):
    behaviour, target = Behaviour(), tmp_path / "new" / "file.zip"
    with served(behaviour) as url:
        fetch(url, target)
        assert target.read_bytes() == DATA
        fetch(url, target)
    assert behaviour.asked == ["bytes=0-"]
    assert [path.name for path in target.parent.iterdir()] == ["file.zip"]
    behaviour = Behaviour(ranges=False, cuts=[1_000_000])
    with served(behaviour) as url:
        fetch(url, tmp_path / "file.zip")
    assert (tmp_path / "file.zip").read_bytes() == DATA and len(behaviour.asked) == 2


def test_broken_connections_go_on_where_they_broke(tmp_path):
    behaviour = Behaviour(cuts=[1_000_000, 0, 500_000])
    with served(behaviour) as url:
        fetch(url, tmp_path / "file.zip")
    assert behaviour.asked == [f"bytes={n}-" for n in (0, 1_000_000, 1_000_000, 1_500_000)]
    assert (tmp_path / "file.zip").read_bytes() == DATA


def test_the_next_run_goes_on_where_the_last_one_failed(tmp_path):
    target = tmp_path / "file.zip"
    with (
        served(Behaviour(cuts=[700_000, 0, 0, 0, 0, 0])) as url,
        pytest.raises(DatasetError, match=r"at 700,000 of 3,000,000 bytes; run the same command"),
    ):
        fetch(url, target)
    assert not target.exists() and (tmp_path / "file.zip.part").stat().st_size == 700_000
    behaviour = Behaviour()
    with served(behaviour) as url:
        fetch(url, target)
    assert behaviour.asked == ["bytes=700000-"] and target.read_bytes() == DATA


def test_another_file_is_refused_and_removed(tmp_path):
    target = tmp_path / "file.zip"
    for data in (DATA[:-1] + b"x", DATA + b"more"):
        with served(Behaviour(data)) as url, pytest.raises(DatasetError, match="removed; run"):
            fetch(url, target)
        assert list(tmp_path.iterdir()) == []
    target.write_bytes(b"mine")
    with pytest.raises(DatasetError, match="4 bytes of sha256 .*delete it"):
        fetch("http://127.0.0.1:1/", target)
    assert target.read_bytes() == b"mine"


def test_no_server_no_file_and_a_shorter_one_are_explained(tmp_path):
    with served(Behaviour(status=404)) as url, pytest.raises(DatasetError, match="HTTP 404"):
        fetch(url, tmp_path / "file.zip")
    with pytest.raises(DatasetError, match=r"refused.*browser.*--source"):
        fetch(url, tmp_path / "file.zip")  # the server is gone
    (tmp_path / "file.zip.part").write_bytes(bytes(2000))
    with served(Behaviour(DATA[:1000])) as url, pytest.raises(DatasetError, match="HTTP 416"):
        fetch(url, tmp_path / "file.zip")
    assert (tmp_path / "file.zip.part").stat().st_size == 0


def test_a_full_disk_keeps_what_arrived(tmp_path, monkeypatch):
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with served(Behaviour()) as url, pytest.raises(OSError, match="No space left"):
        fetch(url, tmp_path / "file.zip")
    assert (tmp_path / "file.zip.part").stat().st_size == len(DATA)
    assert not (tmp_path / "file.zip").exists()
