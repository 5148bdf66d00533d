"""The gate: what passes, what is refused and why, and where it goes."""

import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from dtgan_lab.data import DatasetError, load_dataset
from dtgan_lab.export.drawing import Part
from dtgan_lab.export.gate import CopySearch, Gate, Rules
from dtgan_lab.export.running import NothingPassedError
from tests.core_fixtures import write_tiny_dataset
from tests.evaluation_fixtures import drawing, write_judged_dataset
from tests.export.export_fixtures import StubJudge, export, some_pass, write_judge

SPOTS: dict[str, Any] = {"defects": ("Spots",), "count": 6}


def rejects_of(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "rejects.csv", keep_default_na=False)


# --- what passes ---------------------------------------------------------------------------------
def test_count_images_pass_and_the_others_are_kept_beside_their_reasons(synth, good, tmp_path):
    plain = export(synth, good, tmp_path / "plain", **SPOTS | {"count": 60})
    out = tmp_path / "out"
    table = export(synth, good, out, some_pass(), **SPOTS)
    assert len(table) == 6
    judged = table[["confidence", "judged_defect", "judged_product"]].drop_duplicates()
    assert judged.to_numpy().tolist() == [[0.8, "Spots", "A"]]
    rejects = rejects_of(out)
    assert set(rejects["reason"]) == {
        "confidence 0.20 in Spots, expected at least 0.5 (the judge sees Normal)"
    }
    # all that were tried up to the last that passed, each once, and each the image of its index
    both = pd.concat([table, rejects])
    assert sorted(both["index"]) == list(range(table["index"].max() + 1))
    for path, index in zip(both["path"], both["index"], strict=True):
        assert (out / path).read_bytes() == (tmp_path / "plain" / plain["path"][index]).read_bytes()
    assert set(rejects["path"]) == {f"rejects/{n:06d}.png" for n in rejects["index"]}
    # nothing else is left: what was drawn beyond the last one is gone
    files = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert files == {
        *("export.json", "manifest.csv", "rejects.csv"),
        *(*both["path"], *table["approximate_mask"]),
    }


def test_the_product_must_be_kept(synth, good, tmp_path, labels):
    """The stub sees A everywhere: parts told to be B are refused, of unknown ones none is."""
    gate = some_pass(min_confidence=0.0, keep_product=True)
    table = export(synth, good, tmp_path / "told", gate, parts=labels, **SPOTS)
    assert {labels[path].product for path in table["background"]} == {"A"}
    rejects = rejects_of(tmp_path / "told")
    assert {labels[path].product for path in rejects["background"]} == {"B"}
    assert set(rejects["reason"]) == {"the judge sees product A, expected B"}
    export(synth, good, tmp_path / "unknown", gate, **SPOTS)
    assert rejects_of(tmp_path / "unknown").empty


def test_every_reason_is_told(synth, good, tmp_path):
    known = {str(path): Part("B") for path in good}
    gate = Gate(Rules(0.5, keep_product=True), StubJudge(lambda mean: ([0.9, 0.05, 0.05], 0)))
    with pytest.raises(NothingPassedError, match=r"refused all of 8 images.*rejects\.csv"):
        export(synth, good, tmp_path / "out", gate, parts=known, tries=8, **SPOTS)
    reasons = rejects_of(tmp_path / "out")["reason"]
    assert len(reasons) == 8
    assert reasons.str.contains("confidence 0.05 in Spots.*; the judge sees product A").all()
    assert not (tmp_path / "out/manifest.csv").exists()


def test_fewer_pass_than_asked_for_within_the_tries(synth, good, tmp_path):
    table = export(synth, good, tmp_path / "out", some_pass(), **SPOTS | {"count": 9}, tries=10)
    assert 0 < len(table) < 9
    assert len(table) + len(rejects_of(tmp_path / "out")) == 10


@pytest.mark.parametrize("kind", ["imagefolder", "layout", "coco", "tar"])
def test_rejects_do_not_disturb_a_format(kind, synth, good, tmp_path):
    out = tmp_path / "out"
    known = {str(path): Part("A") for path in good}
    export(synth, good, out, some_pass(), format=kind, parts=known, **SPOTS)
    rejects = rejects_of(out)
    assert len(rejects) > 0
    if kind in ("imagefolder", "layout"):
        with tarfile.open(out / "rejects.tar") as archive:
            names = [f"rejects.tar/{name}" for name in archive.getnames()]
        assert names == list(rejects["path"])
    else:
        assert all((out / path).is_file() for path in rejects["path"])
    if kind == "imagefolder":
        assert ImageFolder(str(out)).classes == ["Spots"]
    if kind == "layout":
        assert load_dataset(out, check="full").manifest["source"].str.contains("synth").sum() == 6


# --- copies --------------------------------------------------------------------------------------
def test_a_training_image_is_a_copy_and_a_fresh_one_is_not(data, dataset, synth):
    search = CopySearch(dataset, synth)
    with Image.open(data / "train/B/Spots/03.png") as image:
        copy = np.asarray(image)
    fresh, _, mask = drawing(1, 2, 77)
    masks = np.stack([mask[:, :, 0]] * 2)
    with Image.open(data / "masks/train/B/Spots/03.png") as image:
        masks[0] = np.asarray(image)
    x = torch.from_numpy(np.stack([copy, fresh[:, :, 0]]))[:, None].float() / 127.5 - 1
    (distance, name, copied), (other, _, other_copied) = search(x, masks)
    assert distance == pytest.approx(0, abs=1e-6)
    assert name == "train/B/Spots/03.png"
    assert copied and not other_copied
    assert other > 0.1
    empty = search(x, np.zeros_like(masks))  # a mask that shows nothing is no error
    assert empty[0][0] == pytest.approx(0, abs=1e-6)


def test_the_least_copy_distance_is_asked_for(dataset, synth, good, tmp_path):
    copies = CopySearch(dataset, synth)

    def limited(name: str, limit: float) -> pd.DataFrame:
        return export(synth, good, tmp_path / name, Gate(Rules(0, False, limit), None, copies))

    rest = limited("all", 0.0)
    assert rejects_of(tmp_path / "all").empty
    limit = float(rest["copy_distance"].median())
    assert (limited("out", limit)["copy_distance"] >= limit - 1e-4).all()
    rejects = rejects_of(tmp_path / "out")
    assert (rejects["copy_distance"] < limit).all()
    assert rejects["reason"].str.match(r"copy distance .* to train/.*, expected at least").all()
    assert rejects["nearest"].str.startswith("train/").all()


def test_data_and_judges_that_do_not_fit_are_refused(synth, tmp_path, dataset):
    with pytest.raises(DatasetError, match="no image with a defect in val and test"):
        CopySearch(load_dataset(write_tiny_dataset(tmp_path / "train-only")), synth)
    other = write_judged_dataset(tmp_path / "other", products=("A", "B"))
    with pytest.raises(ValueError, match="give the data set it was trained on"):
        CopySearch(load_dataset(other), synth)
    copies = CopySearch(dataset, synth)
    with pytest.raises(ValueError, match="--keep-product: expected --judge"):
        Gate(Rules(0.5, keep_product=True), None, copies)
    with pytest.raises(ValueError, match="--min-copy-distance: expected --data"):
        some_pass(min_copy_distance=0.3)
    small = write_judge(tmp_path / "small", image_size=16)
    strange = write_judge(tmp_path / "strange", products=("A", "B", "D"))
    with pytest.raises(ValueError, match=r"this judge takes \(1, 16, 16\)"):
        Gate.load(Rules(), synth, small)
    with pytest.raises(ValueError, match="this judge knows A, B, D"):
        Gate.load(Rules(), synth, strange)
