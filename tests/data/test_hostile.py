"""Two hundred damaged or hostile files: each is told, the rest is taken, nothing leaves."""

import prepare_folder
from dtgan_lab.data import load_dataset
from tests.data.folder_fixtures import folder_words, left_out, png, write_tree
from tests.data.hostile_fixtures import HARMFUL, HARMLESS, LINKS, PER_KIND, hostile_files


def test_each_is_told_and_the_rest_is_taken(tmp_path, capsys, monkeypatch):
    source = write_tree(tmp_path / "src", {f"good/sound{n}.png": png(n) for n in range(4)})
    expected = hostile_files(source, [*HARMLESS, *HARMFUL, *LINKS], monkeypatch)
    assert len(HARMLESS) * PER_KIND + len(expected) >= 200
    before = sorted(path.name for path in tmp_path.iterdir())

    assert prepare_folder.main(folder_words(source, tmp_path / "out")) == 0
    told = left_out(tmp_path / "out")
    assert set(told) == set(expected), "each by name, and no sound one"
    wrong = {name: told[name] for name, text in expected.items() if text not in told[name]}
    assert not wrong
    dataset = load_dataset(tmp_path / "out", check="full")
    assert len(dataset.manifest) == 4 + len(HARMLESS) * PER_KIND
    assert dataset.manifest["source"].map(str.isprintable).all()
    assert dataset.manifest["path"].map(str.isascii).all()
    printed = capsys.readouterr().out
    assert "note: 10 pictures have several frames or pages, the first is taken: bad/anim" in printed
    assert "left out, empty file: 10" in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, "out"])
