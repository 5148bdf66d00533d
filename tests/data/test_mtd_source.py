"""Reading the published Magnetic Tile Defects: zip, folder, download, and what is refused."""

import contextlib
import hashlib
import io
import urllib.request
from collections.abc import Iterator

import pytest

import prepare_mtd
from dtgan_lab.data import DatasetError
from dtgan_lab.data.mtd_source import content_digest, read_source
from prepare_mtd import downloaded_archive
from tests.data.folder_fixtures import as_zip, write_tree


# ---------------------------------------------------------------------------------------- source
def test_zip_and_folders_are_the_same_without_leftovers(tmp_path, files, photographs):
    write_tree(tmp_path / "outer/inner", files)
    assert read_source(tmp_path / "outer" / "inner") == photographs
    assert read_source(tmp_path / "outer") == photographs
    assert len(photographs) == 63
    assert all(photo.mask for photo in photographs)
    junk = {"__MACOSX/MT_Free/Imgs/exp1_num_9.jpg": b"", "MT_Free/Imgs/.exp1_num_9.jpg": b""}
    more = {f"top/{name}": data for name, data in files.items()} | junk
    assert read_source(as_zip(tmp_path / "a.zip", more)) == photographs


def test_damaged_and_other_sources_are_named(tmp_path, archive, files):
    half = tmp_path / "half.zip"
    half.write_bytes(archive.read_bytes()[:-5000])
    with pytest.raises(DatasetError, match=r"half\.zip: cannot be read as a zip"):
        read_source(half)
    with pytest.raises(DatasetError, match=r"no MT_<class>/Imgs"):
        read_source(tmp_path)
    both = {f"{top}/{name}": data for top in "ab" for name, data in files.items()}
    with pytest.raises(DatasetError, match="twice"):
        read_source(as_zip(tmp_path / "both.zip", both))


# -------------------------------------------------------------------------------------- download
@contextlib.contextmanager
def served(monkeypatch: pytest.MonkeyPatch, data: bytes) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(urllib.request, "urlopen", lambda url, timeout: io.BytesIO(data))
        yield


def test_a_download_is_checked_and_removed(monkeypatch, archive, photographs):
    data = archive.read_bytes()
    other = pytest.raises(DatasetError, match=r"sha256 .*not the published ones.*--source")
    with served(monkeypatch, data), other, downloaded_archive():
        pytest.fail("other images must not pass")
    monkeypatch.setattr(prepare_mtd, "ARCHIVE_SHA256", hashlib.sha256(data).hexdigest())
    with served(monkeypatch, data), downloaded_archive() as path:
        assert read_source(path) == photographs
    assert not path.exists()


def test_a_repacked_download_passes_by_its_content(monkeypatch, tmp_path, files):
    members = {f"other-name/{name}": data for name, data in files.items()}
    repacked = as_zip(tmp_path / "again.zip", members)
    digest = content_digest(read_source(repacked))
    monkeypatch.setattr(prepare_mtd, "CONTENT_SHA256", digest)
    with served(monkeypatch, repacked.read_bytes()), downloaded_archive() as path:
        assert len(read_source(path)) == 63


def test_without_a_network_the_way_by_hand_is_named(tmp_path):
    failed = pytest.raises(DatasetError, match=r"download failed .*browser.*--source")
    with failed, downloaded_archive((tmp_path / "nothing.zip").as_uri()):
        pytest.fail("there is nothing to download")
