"""Windows of photographs: around marks, likewise on good parts, and what is refused."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import paste_back
import prepare_folder
from dtgan_lab.data import load_dataset
from tests.data.folder_fixtures import folder_words, left_out, mask_png, picture, png, write_tree

Files = dict[str, bytes] | None
SIZE = (120, 90)  # width, height of a photograph
SIDE = 24
MARKS = {
    "s00": mask_png(SIZE, (50, 40, 58, 48)),  # a spot
    "s01": mask_png(SIZE, (2, 60, 118, 64)),  # a scratch, longer than four windows
    "s02": mask_png(SIZE, (5, 5, 9, 9), (100, 80, 106, 86)),  # two, far from each other
}


def photographs(root: Path, mode: str = "L") -> tuple[Path, Path]:
    """Folders of photographs and of marks."""
    files = {f"good/g{k:02d}.png": png(k, SIZE, mode) for k in range(6)}
    files |= {f"scratched/{name}.png": png(100 + k, SIZE, mode) for k, name in enumerate(MARKS)}
    marks = {f"scratched/{name}.png": data for name, data in MARKS.items()}
    return write_tree(root / "parts", files), write_tree(root / "marks", marks)


def cut(
    tmp_path: Path, *words: object, mode: str = "L", more: Files = None, marked: Files = None
) -> pd.DataFrame:
    """The manifest of windows in `tmp_path / "o"`, with picture, left and top of each."""
    source, marks = photographs(tmp_path, mode)
    write_tree(source, more or {})
    write_tree(marks, marked or {})
    given = ["--annotations", marks, "--crop", SIDE, *words]
    assert prepare_folder.main(folder_words(source, tmp_path / "o", *given, size=SIDE)) == 0
    rows = load_dataset(tmp_path / "o", check="full").manifest
    found = rows["source"].str.extract(r"(?P<picture>.*)@(?P<left>-?\d+),(?P<top>-?\d+)$")
    return pd.concat([rows, found.astype({"left": int, "top": int})], axis=1)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_windows_are_the_photographs_pixels_and_show_every_mark(tmp_path, mode):
    rows = cut(tmp_path, "--channels", len(mode), mode=mode)
    seen = {name: np.zeros(SIZE[::-1], bool) for name in MARKS}
    for _, row in rows.iterrows():
        window = np.asarray(Image.open(tmp_path / "o" / row["path"]))
        number, stem = int(row["picture"][-6:-4]), Path(row["picture"]).stem
        bad = row["defect"] == "scratched"
        whole = np.asarray(picture(100 * bad + number, SIZE, mode))
        place = np.s_[row["top"] : row["top"] + SIDE, row["left"] : row["left"] + SIDE]
        assert np.array_equal(window, whole[place])
        assert bool(row["mask"]) == bad
        if bad:
            mask = np.asarray(Image.open(tmp_path / "o" / row["mask"])) > 0
            assert np.array_equal(mask, np.asarray(Image.open(io.BytesIO(MARKS[stem])))[place] > 0)
            seen[stem][place] = True
    for stem, data in MARKS.items():
        assert seen[stem][np.asarray(Image.open(io.BytesIO(data))) > 0].all(), stem
    counts = rows.groupby("picture").size()
    assert counts["scratched/s00.png"] == 1 and counts["scratched/s01.png"] >= 5
    assert counts["scratched/s02.png"] == 2 and counts["good/g00.png"] <= 8
    assert (rows.groupby("picture")["split"].nunique() == 1).all()


def test_the_seed_alone_moves_the_windows(tmp_path):
    first, again = (set(cut(tmp_path / name)["source"]) for name in "ab")
    assert first == again != set(cut(tmp_path / "c", "--seed", 1)["source"])


def test_pictures_without_marks_or_smaller_than_a_window_are_told(tmp_path, capsys):
    source, marks = photographs(tmp_path)
    more = {f"scratched/s0{k}.png": png(100 + k, SIZE) for k in (3, 4)}
    write_tree(source, more | {"good/small.png": png(7, (20, 90))})
    write_tree(marks, {"scratched/s04.png": png(5, (64, 64))})
    words = folder_words(source, tmp_path / "o", "--annotations", marks, "--crop", SIDE)
    assert prepare_folder.main(words) == 0
    reasons = left_out(tmp_path / "o")
    assert "mark the defect" in reasons["scratched/s03.png"]
    assert "(64, 64) pixels, expected (120, 90)" in reasons["scratched/s04.png"]
    assert "1 pictures are smaller than a window" in capsys.readouterr().out


def test_without_any_mark_it_is_refused_with_the_remedy(tmp_path, capsys):
    words = folder_words(photographs(tmp_path)[0], tmp_path / "o", "--crop", SIDE)
    assert prepare_folder.main(words) == 1
    assert "name them with --annotations" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
    marks = write_tree(tmp_path / "other", {"scratched/s00.png": mask_png((64, 64))})
    assert prepare_folder.main([*words, "--annotations", str(marks)]) == 1
    assert "scratched/s00.png: its mask has (64, 64) pixels" in capsys.readouterr().err


def test_copies_and_contradictions_are_found_before_windows_hide_them(tmp_path):
    copied = {f"scratched/copy{k}.png": png(100, SIZE) for k in range(3)}
    wrong = {"good/really.png": png(102, SIZE), "good/again.png": png(2, SIZE)}
    cut(tmp_path, more=copied | wrong)
    reasons, names = left_out(tmp_path / "o"), {"good/really.png", "scratched/s02.png"}
    assert all("stands under parts/good, parts/scratched" in reasons.pop(name) for name in names)
    assert reasons["good/g02.png"] == "the same pixels as good/again.png"
    assert {reasons[name] for name in copied} == {"the same pixels as scratched/s00.png"}


def test_defects_smaller_than_a_window_do_not_send_good_windows_to_a_corner(tmp_path):
    small = {f"scratched/s0{k}.png": png(100 + k, (20, 20)) for k in range(3)}
    rows = cut(tmp_path, more=small, marked=dict.fromkeys(small, mask_png((20, 20))))
    good = rows[rows["defect"] == "good"]
    assert len(good) > 40 and good[["top", "left"]].mean().between(20, 76).all()


def test_what_was_made_of_windows_goes_back_into_the_photographs(tmp_path, capsys):
    rows = cut(tmp_path)
    good = rows[rows["defect"] == "good"].head(3)
    mask_name = str(write_tree(tmp_path / "made", {"m.png": mask_png((SIDE, SIDE))}) / "m.png")
    for path in good["path"]:
        window = np.array(Image.open(tmp_path / "o" / path))
        window[4:12, 4:12] = 255 - window[4:12, 4:12]
        Image.fromarray(window).save(tmp_path / "made" / Path(path).name)
    made = [Path(path).name for path in good["path"]]
    backgrounds = [tmp_path / "o" / path for path in good["path"]]
    table = {"path": made, "generated_mask": mask_name, "background": backgrounds, "defect": "d"}
    pd.DataFrame(table).to_csv(tmp_path / "made/manifest.csv")
    words = ["--export", tmp_path / "made", "--photographs", tmp_path / "parts"]
    words = [str(w) for w in (*words, "--data", tmp_path / "o", "--out", tmp_path / "whole")]
    assert paste_back.main(words) == 0
    for (_, row), number in zip(good.iterrows(), range(3), strict=True):
        whole = np.asarray(Image.open(tmp_path / f"whole/images/{number:06d}.png"))
        marks = np.asarray(Image.open(tmp_path / f"whole/masks/{number:06d}.png"))
        before = np.asarray(Image.open(tmp_path / "parts" / row["picture"]))
        expected = np.zeros(SIZE[::-1], bool)
        expected[row["top"] + 4 : row["top"] + 12, row["left"] + 4 : row["left"] + 12] = True
        assert np.array_equal(whole, np.where(expected, 255 - before, before))
        assert np.array_equal(marks == 255, expected)
    assert paste_back.main(words) == 1 and "is not empty" in capsys.readouterr().err
    words[words.index("--data") + 1 :] = [str(tmp_path / "o"), "--out", str(tmp_path / "other")]
    manifest, first = tmp_path / "made/manifest.csv", good["picture"].iloc[0]
    pd.DataFrame(table | {"background": "x.png"}).to_csv(manifest)
    assert paste_back.main(words) == 1 and "x.png is none of" in capsys.readouterr().err
    pd.DataFrame(table).drop(columns="background").to_csv(manifest)
    assert paste_back.main(words) == 1 and "no column background" in capsys.readouterr().err
    pd.DataFrame(table).to_csv(manifest)
    last = tmp_path / "made" / made[-1]  # two are pasted before it is found
    last.write_bytes(last.read_bytes()[:99])
    assert paste_back.main(words) == 1 and made[-1] in capsys.readouterr().err
    (tmp_path / "parts" / first).unlink()
    assert paste_back.main(words) == 1 and first in capsys.readouterr().err
    assert not list(tmp_path.glob("*other*"))
    manifest.write_bytes(b"")
    assert paste_back.main(words) == 1 and f"{manifest}: cannot be read" in capsys.readouterr().err
