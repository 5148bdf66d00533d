"""Whole assessments of models that do known things, and the command that prints them."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from dtgan_core.files import sha256_of
from dtgan_core.networks import Guide
from dtgan_core.synthesis import Background, Synthesizer
from dtgan_core.training import Trainer
from dtgan_lab.cli.evaluate import report
from dtgan_lab.cli.main import main
from dtgan_lab.data import Dataset, DatasetError, ImageStore, load_dataset
from dtgan_lab.measure import quality
from dtgan_lab.measure.judge import Judge, JudgeConfig, accuracy, train_judge
from dtgan_lab.measure.measures import PSNR_LIMIT
from dtgan_lab.measure.quality import Assessment, assess
from dtgan_lab.measure.real import RealSide
from dtgan_lab.measure.results import read_results
from tests.core_fixtures import (
    DEFECTS,
    PRODUCTS,
    SIZE,
    failure,
    tiny_config,
    tiny_store,
    write_tiny_export,
)
from tests.evaluation_fixtures import QUICK, write_judged_dataset

# --- the real side -------------------------------------------------------------------------------


def test_the_real_side_has_held_out_references_areas_layers_and_clean_images(dataset):
    real = RealSide(dataset, SIZE, 1)
    sources = list(range(len(real.held_out)))
    drawn: list[int] = []
    for seed in range(40):
        chosen = real.references(sources, 2, seed)
        assert all(i != j for i, j in zip(chosen, sources, strict=True))
        drawn += chosen
    assert (real.held_out.defects[drawn] == 2).all()
    share = torch.bincount(real.held_out.products[drawn], minlength=3) / len(drawn)
    assert torch.allclose(share, torch.full((3,), 1 / 3), atol=0.05)
    assert len(set(drawn)) == 15  # all there are
    assert real.references(sources[5:7], 2, 3) == real.references(sources, 2, 3)[5:7]
    # areas cover the masks of training images
    assert set(real.areas.values()) == {24, 25}
    assert real.areas[1, 1] == 24 and real.areas[2, 2] == 25  # 12 x 2 bars, 5 x 5 squares
    # layers are the difference to the twin
    layers = real.layers(0, 2, 4, seed=0)
    assert layers.shape == (4, 1, SIZE, SIZE)
    assert (layers != 0).flatten(1).sum(dim=1).tolist() == [25] * 4
    assert layers.min() < -0.3 and layers.max() == 0
    # clean is the twin, or the image itself
    normal, spots = real.cell(0, 0)[0], real.cell(0, 2)[0]
    x, clean = real.held_out.to_float(torch.tensor([normal, spots])), real.clean([normal, spots])
    assert torch.equal(clean[0], x[0])
    assert (clean[1] != x[1]).sum() == 25


@pytest.mark.parametrize("counts", [(("train", 2),), (("val", 2), ("test", 2))])
def test_refuses_data_without_held_out_or_training_defects(tmp_path, counts):
    dataset = load_dataset(write_judged_dataset(tmp_path, counts=counts))
    with pytest.raises(DatasetError, match="found no .* image in .*make the data set again"):
        RealSide(dataset, SIZE, 1)


# --- models that do known things -----------------------------------------------------------------
class Stub:
    """A `Synthesizer` whose guide's c is the image that it paints, or nothing."""

    products: tuple[str, ...] = PRODUCTS
    defects, anchor = DEFECTS, DEFECTS[0]
    checkpoint_hash, card = "0" * 64, {"iterations": 0}

    def __init__(self, paint: Callable[[Tensor, str, Tensor | None], Tensor]) -> None:
        self.config = SimpleNamespace(
            model=SimpleNamespace(image_size=SIZE, channels=1, anchor_zero=True)
        )
        self._paint, self._defect = paint, DEFECTS[0]
        self.normal: list[bool] = []
        self._reference: Tensor | None = None

    def background(self, x: Tensor, normal: Tensor) -> Background:
        self.normal = [*self.normal, *normal.tolist()]
        return Background(x, x)

    def latent_guides(self, defect: str, seed: int, indices: Any) -> Guide:
        self._defect, self._reference = defect, None
        return Guide(torch.zeros(0), torch.zeros(0))

    def reference_guides(self, x_ref: Tensor, defect: str) -> Guide:
        self._defect, self._reference = defect, x_ref
        return Guide(torch.zeros(0), torch.zeros(0))

    def paint(self, background: Background, guide: Guide) -> Tensor:
        return self._paint(background.x, self._defect, self._reference)

    def without_defect(self, background: Background) -> Tensor:
        return self._paint(background.x, self.anchor, None)


def assessed(stub: Stub, dataset: Dataset, judge: Judge, **more: Any) -> Assessment:
    return assess(stub, dataset, judge, seeds=(0, 1), **more)  # type: ignore[arg-type]


def rows_of(found: Assessment, source: str, target: str, guidance: str) -> pd.DataFrame:
    table = found.translations
    chosen = (table["source"] == source) & (table["target"] == target)
    rows = table[chosen & (table["guidance"] == guidance)]
    assert len(rows) == len(PRODUCTS)
    return rows


def test_untouched_sources(dataset, judge):
    stub = Stub(lambda x, defect, ref: x.clone())
    found = assessed(stub, dataset, judge)
    held_out = dataset.manifest[dataset.manifest["split"].isin(["val", "test"])]
    assert stub.normal.count(False) == (held_out["defect"] != DEFECTS[0]).sum()  # to be repaired
    assert (found.summary["background_psnr"] == PSNR_LIMIT).all()
    assert (found.summary["recognised"] == 0).all()
    assert (found.summary["diversity"] == 0).all()
    assert (found.summary["product_kept"] == 1).all()
    assert (found.summary["recognised_std"] == 0).all()
    assert (rows_of(found, "Normal", "Normal", "none")["recognised"] == 1).all()
    assert (rows_of(found, "Normal", "Normal", "none")["clean_psnr"] == PSNR_LIMIT).all()
    assert (rows_of(found, "Spots", "Spots", "latent")["recognised"] >= 0.8).all()
    assert (rows_of(found, "Spots", "Normal", "none")["clean_psnr"] < 40).all()
    assert found.overall["latent/background_psnr"] == PSNR_LIMIT
    assert found.overall["latent/recognised_worst"] == 0
    # the tables hold every cell once
    assert len(found.summary) == 3 * 2 * 2
    assert (found.summary["n"] == 5).all() and (found.summary["seeds"] == 2).all()
    # 3 products, 3 sources, to Normal once and to each of 2 defects in 2 ways
    assert len(found.translations) == 3 * 3 * (1 + 2 * 2)
    cells = ["product", "source", "target", "guidance"]
    assert not found.translations.duplicated(cells).any()
    # 45 held-out images, to Normal once, to 2 defects in 2 ways for 2 seeds
    assert len(found.images) == 45 * (1 + 2 * 2 * 2)
    guided = found.images[found.images["guidance"] == "reference"]
    assert all(
        path.split("/")[1:3] == [product, target]
        for path, product, target in zip(
            guided["reference"], guided["reference_product"], guided["target"], strict=True
        )
    )
    assert set(guided["reference_product"]) == set(PRODUCTS)


def test_perfect_cure_meets_the_twin(dataset, judge):
    real = RealSide(dataset, SIZE, 1)
    everything = torch.arange(len(real.held_out))
    images, clean = real.held_out.to_float(everything), real.clean(everything.tolist())

    def cure(x: Tensor, defect: str, ref: Tensor | None) -> Tensor:
        which = [int((images == one).flatten(1).all(1).nonzero()[0]) for one in x]
        return clean[which] if defect == "Normal" else x

    found = assessed(Stub(cure), dataset, judge, real=real)
    assert found.overall["to_normal/clean_psnr"] == PSNR_LIMIT
    assert found.overall["to_normal/recognised"] == 1


def test_references_pasted_whole_are_recognised_but_lose_the_product(dataset, judge):
    stub = Stub(lambda x, defect, ref: x.clone() if ref is None else ref.clone())
    found = assessed(stub, dataset, judge)
    part = found.summary[found.summary["guidance"] == "reference"]
    assert part["recognised"].mean() >= 0.8
    guided = found.images[(found.images["guidance"] == "reference")]
    same = guided["product"] == guided["reference_product"]
    assert (guided[same]["product_kept"] == 1).all()
    assert (guided[~same]["product_kept"] == 0).all()


def test_training_images_handed_out_are_copies(dataset, judge):
    store = ImageStore.load(dataset, "train", SIZE, 1, progress=False)

    def remember(x: Tensor, defect: str, ref: Tensor | None) -> Tensor:
        if defect == "Normal":
            return x.clone()
        y = DEFECTS.index(defect)
        chosen = ((store.defects == y) & (store.products == 0)).nonzero().flatten()
        twins = store.to_float(chosen[:1]).expand_as(x).clone()
        # sources are flat stripes: the defect alone stands out, as in the training image itself
        return twins

    found = assessed(Stub(remember), dataset, judge)
    part = found.summary[found.summary["product"] == "A"]
    assert (part["copies"] == 1).all()
    # the layers still differ by their sources' grain, the defect in them does not
    assert (part["core_diversity"] < 0.2).all()
    assert (found.summary["copies_real"] < 1).all()


def test_defects_move_the_latent_background_nowhere(dataset, judge):
    def spot(x: Tensor, defect: str, ref: Tensor | None) -> Tensor:
        made = x.clone()
        if defect != "Normal":
            made[:, :, 10:15, 10:14] -= 0.5  # 20 pixels, below k of both defects
        return made

    found = assessed(Stub(spot), dataset, judge)
    latent = found.summary[found.summary["guidance"] == "latent"]
    assert (latent["background_psnr"] == PSNR_LIMIT).all()
    reference = found.summary[found.summary["guidance"] == "reference"]
    assert (reference["background_psnr"] < 40).all()  # elsewhere than the reference's defect
    assert (found.summary["core_diversity"] < 1e-5).all()


def test_one_product_without_masks_and_twins_tells_what_it_can(tmp_path):
    data = write_judged_dataset(tmp_path, products=("A",), masks=False, twins=False)
    dataset = load_dataset(data)
    judge = train_judge(dataset, JudgeConfig.of(dataset, **QUICK), progress=False)
    stub = Stub(lambda x, defect, ref: x.clone())
    stub.products = ("A",)
    found = assessed(stub, dataset, judge)
    for column in ("product_kept", "background_psnr", "diversity", "copies", "copies_real"):
        assert found.summary[column].isna().all(), column
    assert found.summary["recognised"].notna().all()
    cured = found.translations[found.translations["target"] == "Normal"]
    assert cured["clean_psnr"].notna().tolist() == (cured["source"] == "Normal").tolist()
    printed = report(
        found, accuracy(judge, ImageStore.load(dataset, "test", SIZE, 1)), pd.DataFrame()
    )
    looks, _, defects = printed.split("\n\n")[:3]
    assert "no masks in this data" in looks
    assert defects.startswith("defects on held-out")
    assert "not told of this data (one product, or no masks): product kept %" in defects
    assert "n/a" not in defects and defects.count("background dB") == 1


def test_masks_without_twins_and_models_without_anchor(tmp_path, judge, dataset):
    bare = load_dataset(write_judged_dataset(tmp_path / "data", twins=False))  # the ring instead
    found = assessed(Stub(lambda x, defect, ref: x.clone()), bare, judge)
    assert (found.summary["diversity"] == 0).all()
    # the source is taken for the plain rendering
    synth = Synthesizer.load(write_tiny_export(tmp_path / "model", tiny_config("d")))
    found = assess(synth, dataset, judge, seeds=(0, 1))
    assert set(found.translations["guidance"]) == {"latent", "reference"}
    assert len(found.translations) == 3 * 3 * 3 * 2
    assert found.summary["diversity"].gt(0).all()


# --- with a network ------------------------------------------------------------------------------
def test_the_seeds_decide_and_batches_of_any_size_serve(synth, dataset, judge, monkeypatch):
    first, again, other = (
        assess(synth, dataset, judge, seeds=(seed,)).images for seed in (0, 0, 1)
    )
    pd.testing.assert_frame_equal(first, again)
    assert not first["background_psnr"].equals(other["background_psnr"])
    monkeypatch.setattr(quality, "BATCH", 4)
    small = assess(synth, dataset, judge, seeds=(0,)).images
    numbers = ["background_psnr", "clean_psnr", "copy_distance"]
    pd.testing.assert_frame_equal(first[numbers], small[numbers], rtol=1e-3)


def test_refuses_what_does_not_fit(synth, dataset, judge):
    with pytest.raises(ValueError, match="seeds"):
        assess(synth, dataset, judge, seeds=())
    other = replace(dataset, info=replace(dataset.info, products=("A", "B", "D")))
    with pytest.raises(ValueError, match="give the data set it was trained on"):
        assess(synth, other, judge)
    small = replace(judge.config, image_size=16)
    wrong = Judge(judge.network, small, judge.products, judge.defects, judge.card)
    with pytest.raises(ValueError, match="--image-size 32"):
        assess(synth, dataset, wrong)


# --- the command line ----------------------------------------------------------------------------


def test_command_prints_tables_and_writes_json_and_a_row_with_its_origin(
    export, data, dataset, judge_folder, tmp_path, capsys
):
    out, rows = tmp_path / "deep" / "numbers.json", tmp_path / "rows.jsonl"
    options = ["--checkpoint", export, "--data", data, "--judge", judge_folder, "--seeds", 1]
    assert main(["evaluate", *map(str, [*options, "--json", out, "--results", rows])]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    head, *rest = captured.out.split("\n\n")  # what a person sees comes before what a judge says
    for words in ("how defects look", "dark share (real)", "overlap", "verdict", "A  Scratches"):
        assert " ".join(words.split()) in " ".join(head.split())
    for words in ("Wilson", "recognised %", "background dB", "copies in real %", "overall:"):
        assert words in captured.out
    found = json.loads(out.read_text())
    assert len(found["summary"]) == len(found["looks"]) == 12 and found["seeds"] == 1
    assert found["summary"][0]["recognised_std"] is None  # one seed has no spread
    assert 0 <= found["overall"]["latent/recognised"] <= 1
    row = read_results(rows).iloc[0]
    assert row["manifest_sha256"] == dataset.manifest_hash and row["seeds"] == 1
    assert row["judge_sha256"] == sha256_of(judge_folder / "judge.safetensors")
    assert row["checkpoint_sha256"] == Synthesizer.load(export).checkpoint_hash
    assert row["config"]["model"]["image_size"] == SIZE
    assert row["latent/recognised"] == found["overall"]["latent/recognised"]


def test_command_takes_a_run_in_the_middle_and_warns_of_a_judge_of_other_data(
    data, judge, tmp_path, capsys
):
    run = tmp_path / "run"
    config = tiny_config(iterations=4, checkpoint_every=2, sample_every=100)
    trainer = Trainer(config, tiny_store(), run, data={"name": "tiny", "licence": "CC0"})
    trainer.run(progress=False)
    shutil.rmtree(run / "export", ignore_errors=True)
    other = Judge(judge.network, judge.config, judge.products, judge.defects, dict(judge.card))
    other.card["data"] = judge.card["data"] | {"manifest_sha256": "another"}
    other.save(tmp_path / "judge")
    arguments = ["--checkpoint", run, "--data", data, "--judge", tmp_path / "judge"]
    assert main(["evaluate", *map(str, arguments), "--seeds", "1"]) == 0
    told = capsys.readouterr()
    assert "4 iterations" in told.out and "trained on another version" in told.err
    assert not (run / "export").exists()


def test_command_refuses_bad_input(export, data, judge_folder, tmp_path, capsys):
    parts = {"--checkpoint": export, "--data": data, "--judge": judge_folder}
    for option in parts:
        wrong = {**parts, option: tmp_path / "none"}
        message = failure(capsys, "evaluate", *(word for pair in wrong.items() for word in pair))
        assert "none" in message
