"""Exports of baselines as one generator, and the commands `train`, `export` and `generate`."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from dtgan_core.checkpoints import CheckpointError, read_json, read_tensors
from dtgan_core.files import write_json_atomic
from dtgan_core.synthesis import Synthesizer
from dtgan_lab.baselines.generators import Makers, Transfers
from dtgan_lab.baselines.zoo import baseline, load_system, method_of
from dtgan_lab.cli.main import main
from tests.baselines.baseline_fixtures import store_of, write_export
from tests.core_fixtures import SIZE, log_lines, picture, save_picture, write_tiny_export


@pytest.fixture(scope="module")
def makers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("stylegan2")
    for product in ("A", "B"):
        write_export("stylegan2", root / f"run-{product}" / "export", product)
    return root


@pytest.fixture(scope="module")
def transfers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mokady")
    for product, defect in (("A", "Scratches"), ("A", "Spots"), ("B", "Spots")):
        write_export("mokady", root / f"{product}-{defect}", product, defect)
    return root


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("parts")
    for number in range(2):
        save_picture(root / f"good/{number}.png", picture(0, 0, number))
        save_picture(root / f"scratched/{number}.png", picture(0, 1, number))
    return root


# --- loading -------------------------------------------------------------------------------------
def test_a_folder_of_exports_is_one_generator(makers, transfers):
    made = load_system(makers)
    assert isinstance(made, Makers)
    assert (made.method, made.products) == ("stylegan2", ("A", "B"))
    assert made.defects == ("Normal", "Scratches", "Spots")
    assert (made.anchor, made.image_size) == ("Normal", SIZE)
    laid = load_system(transfers)
    assert isinstance(laid, Transfers)
    assert laid.products == ("A", "B")
    assert set(laid.defects) == {"Normal", "Scratches", "Spots"}
    assert laid.checkpoint_hash != made.checkpoint_hash
    load_system(makers / "run-A").check("A", "Spots")
    with pytest.raises(ValueError, match="no stylegan2 model makes B Spots"):
        load_system(makers / "run-A").check("B", "Spots")
    assert method_of(transfers) == "mokady"


@pytest.mark.parametrize("method", ["stylegan2", "biggan"])  # the second by standing statistics
def test_images_are_a_function_of_seed_product_defect_and_number(method, makers, tmp_path):
    if method == "biggan":
        for product in ("A", "B"):
            write_export(method, tmp_path / product, product)
    made = load_system(makers if method == "stylegan2" else tmp_path)
    assert isinstance(made, Makers)
    x = made.make("A", "Spots", 3, seed=1)
    assert x.shape == (3, 1, SIZE, SIZE)
    assert x.abs().max() <= 1
    assert torch.allclose(x[1:], made.make("A", "Spots", 2, seed=1, first=1), atol=1e-5)
    for other in (("B", "Spots", 3, 1), ("A", "Scratches", 3, 1), ("A", "Spots", 3, 2)):
        assert not torch.allclose(x, made.make(*other), atol=1e-3)


def test_a_defect_is_laid_over_parts(transfers):
    laid = load_system(transfers)
    assert isinstance(laid, Transfers)
    store = store_of("mokady")
    x, x_ref = store.to_float(torch.tensor([0, 1])), store.to_float(torch.tensor([3]))
    z, m = laid.layers("A", "Scratches", x, x_ref)
    made = laid.transfer("A", "Scratches", x, x_ref)
    assert torch.allclose(made, (m * z + (1 - m) * x).clamp(-1, 1), atol=1e-6)
    assert not torch.allclose(made, laid.transfer("A", "Spots", x, x_ref), atol=1e-3)
    masks = laid.masks("A", "Scratches", x)
    assert masks.shape == (2, 1, SIZE, SIZE)
    assert masks.min() >= 0 and masks.max() <= 1
    with pytest.raises(ValueError, match=r"no mokady model makes B Scratches; found A Scratches"):
        laid.transfer("B", "Scratches", x, x_ref)
    with pytest.raises(ValueError, match="makes A Normal"):
        laid.transfer("A", "Normal", x, x_ref)


def test_what_does_not_belong_together_is_refused(tmp_path, makers):
    with pytest.raises(CheckpointError, match=r"found nothing, expected card\.json"):
        load_system(tmp_path)
    write_export("stylegan2", tmp_path / "one", "A")
    write_export("stylegan2", tmp_path / "two", "A")
    with pytest.raises(CheckpointError, match="two: makes A Normal as does .*one"):
        load_system(tmp_path)
    write_export("biggan", tmp_path / "two", "B")
    with pytest.raises(CheckpointError, match="found method biggan, expected stylegan2"):
        load_system(tmp_path)
    card = read_json(tmp_path / "one/card.json")
    write_json_atomic(tmp_path / "one/card.json", card | {"method": "vae"})
    with pytest.raises(CheckpointError, match="model of 'vae', expected one of dtgan"):
        method_of(tmp_path / "one")
    card["config"]["model"]["depth"] = 3
    write_json_atomic(tmp_path / "one/card.json", card)
    with pytest.raises(CheckpointError, match="unknown field config.model.depth"):
        load_system(tmp_path / "one")
    with pytest.raises(CheckpointError, match="model of stylegan2, expected one of dtgan"):
        Synthesizer.load(makers / "run-A")


def test_a_card_without_a_method_is_that_of_dtgan_and_generate_wants_backgrounds(tmp_path, failing):
    folder = write_tiny_export(tmp_path / "dtgan")
    card = read_json(folder / "card.json")
    assert card.pop("method") == "dtgan"
    write_json_atomic(folder / "card.json", card)
    assert method_of(folder) == "dtgan"
    asked = ["generate", "--checkpoint", folder, "--defect", "Spots", "--out", tmp_path / "new"]
    assert "--backgrounds is not given" in failing(*asked)


# --- commands ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("stylegan2", ["--augment", "ada", "--set", "augment.ramp=1000"]),
        ("biggan", ["--augment", "diffaugment", "--set", "weights.d_steps=1"]),
        ("mokady", ["--defect", "Spots", "--set", "weights.confusion=0.01"]),
    ],
)
def test_train_resume_and_export(method, more, tiny_data, tmp_path):
    out = tmp_path / "run"
    train = ["train", "--method", method, "--product", "B", "--preset", "tiny", *more]
    train += ["--data", str(tiny_data), "--out", str(out), "--iterations", "2"]
    train += ["--set", "train.checkpoint_every=1"]
    assert main(train) == 0
    card = read_json(out / "export/card.json")
    assert (card["method"], card["data"]["products"]) == (method, ["B"])
    assert (card["data"]["name"], card["iterations"]) == ("tiny", 2)
    written, kind = read_json(out / "config.json"), type(baseline(method).presets["tiny"])
    assert (written["method"], written["data"]["products"]) == (method, ["B"])
    assert kind.from_json(written["config"]).to_json() == written["config"]
    assert [line["step"] for line in log_lines(out)] == [1, 2]
    tensors = read_tensors(out / "export/ema.safetensors")
    assert all(value.dtype == torch.float16 for value in tensors.values())
    assert main([*train, "--resume"]) == 0
    assert main(["export", "--run", str(out), "--out", str(tmp_path / "again")]) == 0
    for name in ("ema.safetensors", "card.json"):
        assert (tmp_path / "again" / name).is_file()
    load_system(tmp_path / "again").check("B", "Spots")
    load_system(out).check("B", "Spots")


def test_options_of_train_that_do_not_apply(tiny_data, tmp_path, failing):
    base = ["train", "--data", tiny_data, "--out", tmp_path / "run", "--preset", "tiny"]
    base += ["--iterations", 1]
    assert "--product is not given: stylegan2" in failing(*base, "--method", "stylegan2")
    named = [*base, "--product", "A"]
    assert "expected one of A, B, C" in failing(*base, "--method", "biggan", "--product", "Z")
    assert "--product: dtgan learns all products" in failing(*named)
    assert "--augment: dtgan" in failing(*base, "--augment", "ada")
    stylegan2 = [*named, "--method", "stylegan2"]
    assert "--defect Spots: stylegan2 learns all" in failing(*stylegan2, "--defect", "Spots")
    assert "--ablation a: is DT-GAN's alone" in failing(*stylegan2, "--ablation", "a")
    assert "--set weights.cyc=2" in failing(*stylegan2, "--set", "weights.cyc=2")
    assert "train.guidance is DT-GAN's" in failing(*stylegan2, "--set", "train.guidance=both")
    mokady = [*named, "--method", "mokady"]
    assert "--defect is not given: mokady" in failing(*mokady)
    assert "expected one of Scratches, Spots" in failing(*mokady, "--defect", "Normal")
    assert "--augment: mokady" in failing(*mokady, "--defect", "Spots", "--augment", "ada")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_generate_from_nothing(makers, tmp_path, parts, failing):
    common = ["generate", "--checkpoint", str(makers), "--seed", "2"]
    common += ["--defect", "Scratches", "Spots", "--count", "6"]
    assert main([*common, "--out", str(tmp_path / "all")]) == 0
    table = pd.read_csv(tmp_path / "all/manifest.csv", keep_default_na=False)
    assert list(table["product"]) == ["A", "B", "A", "B", "A", "B"]
    assert list(table["defect"]) == ["Scratches", "Scratches", "Spots", "Spots"] + 2 * ["Scratches"]
    assert set(table["guidance"]) == {"none"}
    assert set(table["background"]) == set(table["generated_mask"]) == {""}
    assert not (tmp_path / "all/generated_masks").exists()
    for path in table["path"]:
        with Image.open(tmp_path / "all" / path) as image:
            assert image.size == (SIZE, SIZE)
    assert main([*common, "--product", "B", "--out", str(tmp_path / "b")]) == 0
    alone = pd.read_csv(tmp_path / "b/manifest.csv")
    assert set(alone["product"]) == {"B"}
    first = [(tmp_path / name).read_bytes() for name in ("all/images/000001.png",
                                                         "b/images/000000.png")]  # fmt: skip
    assert first[0] == first[1]
    out = ["--out", tmp_path / "new"]
    refused = failing(*common, *out, "--backgrounds", parts)
    assert "--backgrounds: stylegan2 makes images from nothing" in refused
    assert "--gate: goes with DT-GAN alone" in failing(*common, *out, "--gate")
    assert "--format: goes with DT-GAN alone" in failing(*common, *out, "--format", "coco")
    assert "no stylegan2 model makes C" in failing(*common, *out, "--product", "C")
    assert "is not empty" in failing(*common, "--out", tmp_path / "all")
    assert not (tmp_path / "new").exists()


def test_generate_by_transfer(transfers, tmp_path, parts, failing):
    common = ["generate", "--checkpoint", str(transfers), "--backgrounds", str(parts / "good")]
    common += ["--product", "A", "--defect", "Scratches", "--count", "3"]
    references = ["--references", str(parts / "scratched")]
    assert main([*common, *references, "--out", str(tmp_path / "made")]) == 0
    table = pd.read_csv(tmp_path / "made/manifest.csv")
    assert set(table["guidance"]) == {"reference"}
    assert table["background"].str.contains("good").all()
    assert table["reference"].str.contains("scratched").all()
    for row in table.to_dict("records"):
        with Image.open(tmp_path / "made" / row["generated_mask"]) as image:
            binary = np.asarray(image)
        with Image.open(tmp_path / "made" / row["soft_mask"]) as image:
            assert np.array_equal(binary, 255 * (np.asarray(image) > 127.5))
    out = ["--out", tmp_path / "new"]
    assert "--references is not given: mokady" in failing(*common, *out)
    unnamed = [item for item in common if item not in ("--product", "A")]
    assert "expected one of each" in failing(*unnamed[:5], *references, *out, "--defect", "Spots")
