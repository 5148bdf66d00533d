"""Marks of people as masks: LabelMe, COCO, YOLO, mask pictures; and the picture of a dry run."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import prepare_folder
from dtgan_lab.data import load_dataset
from tests.data.folder_fixtures import folder_words, mask_png, two_folders, write_tree

# The middle quarter of a picture of 32 x 32.
SQUARE: list[list[float]] = [[8, 8], [23, 8], [23, 23], [8, 23]]


def labelme(shape_type: str, points: list[list[float]]) -> bytes:
    shape = {"label": "scratch", "shape_type": shape_type, "points": points}
    return json.dumps({"imageWidth": 32, "imageHeight": 32, "shapes": [shape]}).encode()


def coco(**note: object) -> bytes:
    images = [{"id": 7, "file_name": "scratched/s00.png", "width": 32, "height": 32}]
    return json.dumps({"images": images, "annotations": [{"image_id": 7} | note]}).encode()


def prepared(tmp_path: Path, marks: dict[str, bytes], *more: str) -> dict[str, np.ndarray]:
    """Masks by the name of their picture's source."""
    source = write_tree(tmp_path / "parts", two_folders(12, 12))
    folder = write_tree(tmp_path / "marks", marks)
    words = folder_words(source, tmp_path / "o", "--annotations", folder, *more, size=32)
    assert prepare_folder.main(words) == 0
    rows = load_dataset(tmp_path / "o", check="full").manifest
    return {
        row["source"]: np.asarray(Image.open(tmp_path / "o" / row["mask"])) > 0
        for _, row in rows.iterrows()
        if row["mask"]
    }


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("scratched/s00.json", labelme("polygon", SQUARE)),
        ("s00.json", labelme("rectangle", [SQUARE[0], SQUARE[2]])),
        ("s00.json", labelme("rectangle", SQUARE)),
        ("labels/s00.txt", b"0 0.484375 0.484375 0.46875 0.46875\n"),
        ("s00.txt", b"0 0.25 0.25 0.71875 0.25 0.71875 0.71875 0.25 0.71875\n\n"),
        ("all.json", coco(segmentation=[sum(SQUARE, [])])),
        ("all.json", coco(bbox=[8, 8, 15, 15])),
    ],
)
def test_every_format_is_the_same_square(tmp_path, name, data):
    masks = prepared(tmp_path, {name: data})
    assert list(masks) == ["scratched/s00.png"]
    expected = np.zeros((32, 32), bool)
    expected[8:24, 8:24] = True
    assert np.array_equal(masks["scratched/s00.png"], expected)


def test_circles_lines_and_mask_pictures(tmp_path):
    marks = {
        "s00.json": labelme("circle", [[16, 16], [24, 16]]),
        "s01.json": labelme("linestrip", [[4, 16], [16, 16], [28, 16]]),
        "scratched/s02_mask.png": mask_png(),
    }
    masks = prepared(tmp_path, marks)
    circle, line, picture = (masks[f"scratched/s0{k}.png"] for k in range(3))
    assert 190 < circle.sum() < 240 and not circle[8, 8] and circle[16, 16]
    assert line[16, 4:28].all() and line.sum() < 4 * 27 and picture[4:12, 4:12].all()


def test_marks_that_fit_nowhere_or_are_broken_are_told(tmp_path, capsys):
    marks = {
        "other.json": labelme("polygon", SQUARE),
        "s01.json": b'{"shapes": [{"points": "x"}]}',
        "s02.json": labelme("mystery", SQUARE),
        "s03.txt": b"0 nan 0.5 0.1 0.1",
        "s04.json": b"[" * 100_000,
        "s05.txt": b"",
        "all.json": coco(segmentation={"counts": "abc", "size": [32, 32]}),
        "s06.json": labelme("polygon", SQUARE),
        "s07.json": labelme("polygon", [[10**400, 0], *SQUARE]),
        "s08.json": labelme("point", [[3, 3]]),
        "s09.json": labelme("polygon", SQUARE).replace(b'"imageWidth": 32', b'"imageWidth": 64'),
        "s10.json": labelme("rectangle", [[40, 40], [50, 50]]),
        "s11.json": labelme("polygon", SQUARE).replace(b'"imageWidth": 32', b'"imageWidth": null'),
        "classes.txt": b"scratch",
    }
    assert list(prepared(tmp_path, marks)) == ["scratched/s06.png"]
    told = capsys.readouterr().out
    assert "left out, annotation: 7" in told and "3 pictures have masks" in told
    assert "64 x 32 pixels, expected 32 x 32" in told and "outside the picture of 32" in told
    assert "imageWidth and imageHeight of None and 32" in told and "classes" not in told
    assert "1 annotations fit no picture" in told and "other" in told
    assert "runs of pixels instead of polygons" in told and "'mystery'" in told


def test_marks_may_lie_among_the_pictures(tmp_path, capsys):
    files = two_folders() | {"scratched/s00.json": labelme("polygon", SQUARE)}
    source = write_tree(tmp_path / "parts", files)
    words = folder_words(source, tmp_path / "o", "--annotations", source, size=32)
    assert prepare_folder.main(words) == 0
    told = capsys.readouterr().out
    assert "left out" not in told and "1 pictures have masks" in told


def test_a_dry_run_ends_with_a_picture(tmp_path, capsys):
    source = write_tree(tmp_path / "parts", two_folders(60, 10))
    marks = write_tree(tmp_path / "marks", {"s00.json": labelme("polygon", SQUARE)})
    out = tmp_path / "new/set"
    words = folder_words(source, out, "--dry-run", "--annotations", marks, size=32)
    assert prepare_folder.main(words) == 0
    told = capsys.readouterr().out
    assert "parts / scratched (7)" in told and "parts / good (" not in told
    assert "set.png: a picture of what would be taught" in told
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["set.png"]
    sheet = np.asarray(Image.open(tmp_path / "new" / "set.png"))
    assert sheet.shape == (2 * (64 + 18), 10 * 66, 3)
    outlined = (sheet == (213, 94, 0)).all(axis=2)
    assert outlined[82:].any() and not outlined[:82].any(), "on the scratched one alone"
    assert prepare_folder.main(words) == 0, "its own picture"
    Image.new("L", (8, 8)).save(tmp_path / "new/set.png")
    assert prepare_folder.main(words) == 1 and "no picture of this" in capsys.readouterr().err
    for out, told in ((tmp_path / "n", "correct --annot"), (Path(), "has no name of its own")):
        wrong = folder_words(source, out, "--annotations", tmp_path / "no")
        assert prepare_folder.main(wrong) == 1 and told in capsys.readouterr().err
