"""The downstream comparison: no held-out image is learned from, arms run, results are resumed."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from typing import Any

import pandas as pd
import pytest
import torch

from dtgan_core.files import sha256_of
from dtgan_core.loop import Loop
from dtgan_core.synthesis import Synthesizer
from dtgan_lab.cli.main import ARM_NAMES, main
from dtgan_lab.data import Dataset, DatasetError, ImageStore
from dtgan_lab.data.subset import make_subset
from dtgan_lab.downstream import comparison as downstream
from dtgan_lab.downstream.arms import ARMS, arm_named
from dtgan_lab.downstream.classifier import ClassifierConfig, classifier_config
from dtgan_lab.downstream.comparison import Comparison, read_results, results_table, run_arms
from dtgan_lab.downstream.training_set import MODEL, Materials, TrainingSet, refuse_leaks
from tests.core_fixtures import SIZE
from tests.downstream_fixtures import PER_CLASS, gate_of, quick, some


@pytest.fixture(scope="module")
def materials(dataset: Dataset, materials: Materials) -> Materials:
    """With a gate that believes about every second image."""
    return replace(materials, gate=gate_of(dataset, materials.the(MODEL), some))


@pytest.fixture(scope="module")
def taught_by(materials: Materials) -> Callable[[str], TrainingSet]:
    """What the arm of a name learns from under seed 0, made once."""
    return cache(lambda name: ARMS[name].training_set(materials, PER_CLASS, seed=0))


@pytest.fixture(scope="module")
def held_out(dataset: Dataset) -> set[bytes]:
    """The pixels of every image of val and test."""
    held = [ImageStore.load(dataset, s, SIZE, 1, progress=False).images for s in ("val", "test")]
    return {image.numpy().tobytes() for image in torch.cat(held)}


# --- held-out images stay held out ---------------------------------------------------------------
def leaked(dataset: Dataset, paths: Iterable[str]) -> list[str]:
    """Paths that are held out, or share a group with something that is; told by the manifest."""
    manifest = dataset.manifest.set_index("path")
    held = manifest[manifest["split"].isin(["val", "test"])]
    assert len(held) == 45
    forbidden = set(held.index) | set(held["twin"]) | set(held["mask"])
    return [p for p in paths if p in forbidden or manifest.loc[p, "group"] in set(held["group"])]


@pytest.mark.parametrize("name", list(ARMS))
def test_no_arm_learns_from_a_held_out_image_twin_or_group(name, dataset, taught_by, held_out):
    taught = taught_by(name)
    assert taught.is_synthetic.any() == (ARMS[name].paint is not None)
    used = {path for source in taught.sources for path in source}
    assert not leaked(dataset, used)
    refuse_leaks(used, dataset)
    # and by the pixels: nothing equals a held-out image
    assert len(held_out) == 45
    assert not held_out & {image.numpy().tobytes() for image in taught.images}


@pytest.mark.parametrize("name", ["copy-paste-all", "dtgan-reference"])
def test_an_arm_can_take_all_defects_from_one_product(name, dataset, materials, taught_by):
    manifest = dataset.manifest.set_index("path")
    taught = arm_named(f"{name}@B").training_set(materials, PER_CLASS, seed=0)
    made = [s for s, new in zip(taught.sources, taught.is_synthetic, strict=True) if new]
    assert {manifest.loc[reference, "product"] for _, reference in made} == {"B"}
    assert {manifest.loc[background, "product"] for background, _ in made} == {"A", "B", "C"}
    free = taught_by(name)
    assert len(free) == len(taught) and not torch.equal(free.images, taught.images)


@pytest.mark.parametrize(
    ("system", "images"),
    [
        ([], 54),
        (["--method", "stylegan2", "--product", "A"], 18),
        (["--method", "mokady", "--product", "A", "--defect", "Spots"], 12),
    ],
)
def test_no_gan_learns_from_a_held_out_image(system, images, data, dataset, tmp_path, monkeypatch):
    seen: list[ImageStore] = []

    def watched(self: Any, config: Any, store: ImageStore, *_: Any) -> None:
        seen.append(store)
        raise ValueError("seen enough")

    monkeypatch.setattr(Loop, "__init__", watched)
    command = ["train", "--data", str(data), "--out", str(tmp_path), "--preset", "tiny", *system]
    assert main(command) == 2
    (store,) = seen
    assert len(store) == images and not leaked(dataset, store.paths)
    splits = dataset.manifest.set_index("path").loc[store.paths, "split"]
    assert set(splits) == {"train"}


def test_leaks_are_refused_by_kind(dataset):
    manifest = dataset.manifest
    path = dict(zip(manifest["split"], manifest["path"], strict=True))
    refuse_leaks({path["train"], path["pool"]}, dataset)
    with pytest.raises(DatasetError, match="held-out split"):
        refuse_leaks({path["train"], path["val"]}, dataset)
    with pytest.raises(DatasetError, match="not in the manifest"):
        refuse_leaks({"train/A/Normal/unknown.png"}, dataset)

    def with_train_row(**columns: str) -> Dataset:
        rows = manifest.copy()
        for column, value in columns.items():
            rows.loc[rows["path"] == path["train"], column] = value
        return replace(dataset, manifest=rows)

    held = manifest[(manifest["split"] == "test") & (manifest["twin"] != "")].iloc[0]
    with pytest.raises(DatasetError, match="held-out group"):
        refuse_leaks({path["train"]}, with_train_row(group=held["group"]))
    with pytest.raises(DatasetError, match="held-out image"):
        refuse_leaks({path["train"]}, with_train_row(sha256=held["sha256"]))
    twin = sha256_of(dataset.root / held["twin"])
    with pytest.raises(DatasetError, match="twin of a held-out image"):
        refuse_leaks({path["train"]}, with_train_row(sha256=twin))


# --- training sets -------------------------------------------------------------------------------
def test_registry_and_help_name_the_same_arms():
    assert tuple(ARMS) == ARM_NAMES
    assert {ARMS[n].reversal for n in ARMS} == {"off", "defects", "all"}


@pytest.mark.parametrize("name", [name for name in ARMS if "+" not in name])
def test_synthetic_images_fill_every_class_and_product_and_seeds_decide(name, materials, taught_by):
    arm, taught = ARMS[name], taught_by(name)
    names = materials.store.defect_names
    full = {"real": 18, "synthetic": 18 if arm.paint else 0}
    assert taught.counts(names) == {
        "Normal": {"real": 36, "synthetic": 0},
        "Scratches": full,
        "Spots": full,
    }
    made = taught.is_synthetic
    for p in range(3):
        assert int(((taught.products == p) & made).sum()) == full["synthetic"] * 2 // 3
    assert taught.known[~made].all() and (taught.known[made] == arm.known).all()
    again = arm.training_set(materials, PER_CLASS, seed=0)
    assert torch.equal(taught.images, again.images) and taught.sources == again.sources
    other = arm.training_set(materials, PER_CLASS, seed=1)
    assert taught.sources != other.sources
    if arm.paint:
        images = [image.numpy().tobytes() for image in taught.images[made]]
        assert len(set(images)) > 0.8 * len(images), "hardly any two alike"


def test_normal_images_come_from_train_and_pool_and_share_is_kept(materials, taught_by):
    taught = taught_by("none")
    normal = [s for (s,) in taught.sources if "/Normal/" in s]
    assert len(normal) == len(set(normal)) == 36
    assert {s.split("/")[0] for s in normal} == {"train", "pool"}
    assert not [s for (s,) in taught.sources if s.startswith("pool") and "/Normal/" not in s]
    few = ARMS["copy-paste"].training_set(materials, 9, seed=0)
    assert not few.is_synthetic.any(), "more real defects than asked for are kept, none added"
    assert len(few) == 9 + 36
    with pytest.raises(ValueError, match="images per class is 2; expected at least one for each"):
        ARMS["none"].training_set(materials, 2, seed=0)


def test_pasted_images_are_their_background_but_for_a_small_place(materials, taught_by):
    store = materials.store
    number = {path: i for i, path in enumerate(store.paths)}
    for name, products in (("copy-paste", 1), ("copy-paste-all", 3)):
        taught = taught_by(name)
        other = set()
        for n in taught.is_synthetic.nonzero().flatten().tolist():
            background, reference = taught.sources[n]
            assert f"/{store.product_names[int(taught.products[n])]}/Normal/" in background
            assert f"/{store.defect_names[int(taught.defects[n])]}/" in reference
            changed = taught.images[n] != store.images[number[background]]
            assert 0 < changed.float().mean() < 0.2
            other.add((background.split("/")[1], reference.split("/")[1]))
        assert len({r for b, r in other if b == "A"}) == products


def test_both_takes_latent_and_reference_in_turn(taught_by):
    taught = taught_by("dtgan-both")
    lengths = [len(s) for s, m in zip(taught.sources, taught.is_synthetic, strict=True) if m]
    assert lengths == [2, 1] * 18


def test_pasting_without_masks_is_refused(materials):
    bare = Materials(replace(materials.store, mask_paths=[""] * len(materials.store)))
    with pytest.raises(DatasetError, match="no training image of Scratches of A has a mask"):
        ARMS["copy-paste"].training_set(bare, PER_CLASS, seed=0)


# --- runs ----------------------------------------------------------------------------------------
def test_arms_run_for_real_and_learn(dataset, tmp_path):
    comparison = Comparison(dataset, classifier_config("tiny"))
    out = tmp_path / "new" / "results.jsonl"
    rows = run_arms(comparison, ["none", "copy-paste"], [0], PER_CLASS, out, progress=False)
    assert [row["arm"] for row in rows] == ["none", "copy-paste"]
    none, pasted = rows
    for row in rows:
        assert row["test"]["n"] == 27 and row["test"]["error"] <= 0.3, "chance is 0.67"
        assert row["manifest_sha256"] == dataset.manifest_hash
        assert row["checkpoint_sha256"] is None and row["seconds"] > 0
        assert row["iteration"] in (20, 40, 60)
    assert none["domain_accuracy"] is None
    assert 0 <= pasted["domain_accuracy"] <= 1
    assert pasted["counts"]["Spots"] == {"real": 18, "synthetic": 18}
    assert out.read_text().count("\n") == 2


def test_finished_runs_are_skipped_and_changed_ones_are_not(dataset, tmp_path, ran):
    out = tmp_path / "results.jsonl"

    def go(config: ClassifierConfig, names: list[str], seeds: list[int], count: int = 36) -> int:
        ran.clear()
        return len(run_arms(Comparison(dataset, config), names, seeds, count, out, progress=False))

    assert go(quick(), ["none"], [0]) == 1 and ran == [("none", 0)]
    assert go(quick(), ["none"], [0]) == 1 and ran == []
    assert go(quick(), ["traditional", "none"], [0, 1]) == 4
    assert ran == [("traditional", 0), ("traditional", 1), ("none", 1)]
    lines = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:-1]))  # killed before it wrote the last line
    assert go(quick(), ["none"], [1]) == 1 and ran == [("none", 1)]
    assert len(read_results(out)) == 4
    assert go(quick(), ["none"], [0], count=18) == 1 and ran == [("none", 0)]
    assert go(quick(lr=1e-3), ["none"], [0]) == 1 and ran == [("none", 0)]


def test_test_images_are_read_once_after_training(dataset, export, monkeypatch):
    comparison = Comparison(dataset, quick(), Synthesizer.load(export))
    events: list[str] = []
    load, train = ImageStore.load, downstream.train_classifier

    def watched_load(data: Dataset, split: str, *rest: Any, **more: Any) -> ImageStore:
        events.append(split)
        return load(data, split, *rest, **more)

    def watched_train(*rest: Any) -> Any:
        trained = train(*rest)
        events.append("trained")
        return trained

    monkeypatch.setattr(downstream.ImageStore, "load", watched_load)
    monkeypatch.setattr(downstream, "train_classifier", watched_train)
    row = comparison.run("dtgan-both+reversal", 0, PER_CLASS, progress=False)
    assert events == ["trained", "test"]
    assert row["checkpoint_sha256"] and row["domain_accuracy"] is not None


def test_models_that_do_not_fit_are_refused(dataset, export):
    synth = Synthesizer.load(export)
    with pytest.raises(ValueError, match="1 channel.s. and 32 pixels.*give --image-size 32"):
        Comparison(dataset, quick(image_size=64), synth)
    synth.defects = ("Normal", "Dents", "Spots")
    with pytest.raises(ValueError, match="the model knows A, B, C and Normal, Dents, Spots"):
        Comparison(dataset, quick(), synth)


def test_a_model_of_all_products_serves_a_classifier_of_one(dataset, export, tmp_path):
    one = make_subset(dataset, {}, tmp_path / "B", products=["B"])
    taught = Comparison(one, quick(), Synthesizer.load(export))
    row = taught.run("dtgan-both", 0, PER_CLASS // 3, progress=False)
    assert row["counts"]["Spots"] == {"real": 6, "synthetic": 6}
    assert list(row["test"]["error_by_product"]) == ["B"]


def test_a_classifier_can_be_tested_on_another_data_set(dataset, tmp_path):
    few = make_subset(dataset, {("A", "Spots"): 2}, tmp_path / "few")
    rows = few.manifest
    less = replace(few, manifest=rows.drop(rows.index[rows["split"] == "test"][:9]))
    comparison = Comparison(dataset, quick(), test=less)
    out = tmp_path / "results.jsonl"
    for taught in (Comparison(dataset, quick()), comparison, comparison):
        run_arms(taught, ["none"], [0], PER_CLASS, out, progress=False)
    own, other = read_results(out)  # the second was not taken for the first, the third was
    assert (own["test"]["n"], other["test"]["n"]) == (27, 18)
    assert own["test_sha256"] is None and other["test_sha256"] == few.manifest_hash
    leaky = replace(few, manifest=rows.assign(split="test"))
    with pytest.raises(ValueError, match="is a training image of"):
        Comparison(dataset, quick(), test=leaky)
    with pytest.raises(ValueError, match="the model knows A, B, C"):
        Comparison(dataset, quick(), test=make_subset(dataset, {}, tmp_path / "B", products=["B"]))


# --- results -------------------------------------------------------------------------------------
def test_table_is_the_mean_over_seeds_with_its_spread():
    def row(arm: str, error: float, domain: float | None) -> dict[str, Any]:
        recall = {"Normal": 1 - error, "Scratches": 0.5}
        test = {"n": 10, "error": error, "recall": recall, "defect_recall": 0.8}
        return {"arm": arm, "test": test, "domain_accuracy": domain, "seconds": 2.0}

    table = results_table([row("none", 0.1, None), row("none", 0.3, None), row("dtgan", 0.1, 0.6)])
    assert list(table["arm"]) == ["none", "dtgan"] and list(table["seeds"]) == [2, 1]
    assert list(table["error"]) == pytest.approx([20, 10])
    assert table["error_std"][0] == pytest.approx(200**0.5)
    assert pd.isna(table["error_std"][1]) and pd.isna(table["domain"][0])
    assert table["domain"][1] == pytest.approx(60)
    assert table["recall Normal"][0] == pytest.approx(80)
