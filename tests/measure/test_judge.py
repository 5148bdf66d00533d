"""The judge learns, is stored and loaded to the bit, and refuses what is not its own."""

from pathlib import Path

import pytest
import torch

from dtgan_core.checkpoints import CheckpointError
from dtgan_lab.cli.main import main
from dtgan_lab.data import DatasetError, ImageStore, load_dataset
from dtgan_lab.measure.judge import (
    Judge,
    JudgeBatch,
    JudgeConfig,
    JudgeLogits,
    JudgeNetwork,
    judge_batch,
    judge_loss,
    moved,
    relit,
    train_judge,
)
from dtgan_lab.measure.observers import BalancedDraws
from tests.core_fixtures import SIZE
from tests.evaluation_fixtures import QUICK, write_judged_dataset


def images_of(data: Path, split: str = "test") -> ImageStore:
    return ImageStore.load(load_dataset(data), split, SIZE, 1, progress=False)


# --- learning ------------------------------------------------------------------------------------
def test_learns_an_easy_set_and_its_card_tells_the_accuracy(data, dataset, judge):
    store = images_of(data)
    prediction = judge(store.to_float(torch.arange(len(store))))
    assert prediction.product is not None
    assert (prediction.defect == store.defects).float().mean() >= 0.9
    assert (prediction.product == store.products).float().mean() == 1
    assert torch.allclose(prediction.defect_probability.sum(dim=1), torch.ones(len(store)))
    # the card tells the accuracy as it is
    right = prediction.defect == store.defects
    rows = judge.card["accuracy"]["test"]
    cells = {(r["question"], r["product"], r["defect"]): r for r in rows}
    assert cells["defect", "all", "all"]["n"] == 27
    assert cells["defect", "all", "all"]["right"] == round(float(right.float().mean()), 4)
    spots_of_b = right[(store.products == 1) & (store.defects == 2)]
    assert cells["defect", "B", "Spots"]["right"] == round(float(spots_of_b.float().mean()), 4)
    assert judge.card["data"]["manifest_sha256"] == dataset.manifest_hash
    assert judge.card["iterations"] == 60 and judge.card["seed"] == 0
    assert judge.card["seconds"] > 0 and judge.card["hardware"]["type"] == "cpu"


def test_same_seed_same_weights_and_global_random_state_untouched(dataset):
    config = JudgeConfig.of(dataset, **{**QUICK, "iterations": 4, "check_every": 2})
    torch.manual_seed(5)
    first, again = (train_judge(dataset, config, progress=False) for _ in range(2))
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1))
    one, two = first.network.state_dict(), again.network.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_one_product_has_no_product_head(tmp_path):
    dataset = load_dataset(write_judged_dataset(tmp_path, products=("A",), masks=False))
    config = JudgeConfig.of(dataset, **{**QUICK, "iterations": 2, "check_every": 1})
    judge = train_judge(dataset, config, progress=False)
    assert judge(torch.zeros(2, 1, SIZE, SIZE)).product is None
    assert {row["question"] for row in judge.card["accuracy"]["test"]} == {"defect"}


@pytest.mark.parametrize("size", [16, 48, 256])
def test_networks_of_every_size_stay_below_two_megabytes(size):
    network = JudgeNetwork(JudgeConfig(size, 3), 3, 4).eval()
    verdict = network(torch.zeros(1, 3, size, size))
    assert verdict.defect.shape == (1, 3)
    assert verdict.product is not None and verdict.product.shape == (1, 4)
    assert sum(2 * value.numel() for value in network.state_dict().values()) < 2e6


def test_dense_head_learns_from_masks_alone():
    verdict = JudgeNetwork(JudgeConfig(SIZE), 3, 1).eval()(torch.zeros(2, 1, SIZE, SIZE))
    y, p = torch.tensor([1, 0]), torch.zeros(2, dtype=torch.long)
    masks = torch.zeros(2, 1, SIZE, SIZE)
    masks[:, :, 4, 4] = 1  # the anchor's is not counted: it has no place
    dense = torch.full_like(verdict.dense, -20.0)
    dense[0, 1, 1, 1] = 20.0
    verdict = JudgeLogits(verdict.defect.detach(), None, verdict.dense.detach())
    batch = JudgeBatch(masks, y, p, masks)
    good = judge_loss(verdict._replace(dense=dense), batch, anchor=0)
    plain = judge_loss(verdict, batch._replace(masks=None), anchor=0)
    assert float(good - plain) == pytest.approx(0, abs=1e-6)
    dense[0, 1, 1, 1] = -20.0
    assert float(judge_loss(verdict._replace(dense=dense), batch, anchor=0) - plain) > 0.1


# --- what it is shown ----------------------------------------------------------------------------
def test_sampler_balances_cells_and_moves_masks_with_images(data):
    store = images_of(data, "train")
    draws = BalancedDraws(store, 18, 1, "judge")
    x, y, p, masks = judge_batch(draws, 3)
    assert torch.equal(torch.bincount(3 * p + y), torch.full((9,), 2))
    assert masks is not None and masks.shape == (18, 1, SIZE, SIZE)
    assert masks[y == 0].max() == 0
    for n in (y == 2).nonzero().flatten().tolist():  # dark squares
        assert x[n][masks[n] > 0.9].mean() < x[n][masks[n] < 0.1].mean() - 0.2
    assert torch.equal(x, judge_batch(draws, 3).x)
    assert not torch.equal(x, judge_batch(draws, 4).x)


def test_moved_flips_only_where_allowed_and_relit_stays_in_range():
    x = torch.zeros(64, 1, 32, 32)
    x[:, :, :16, :16] = 1  # upper left
    for allowed, corners in (((False, False), 1), ((True, False), 2), ((True, True), 4)):
        flips = torch.tensor([allowed]).expand(64, 2)
        y = moved(x, flips, torch.Generator().manual_seed(0))
        quarters = y.unfold(2, 16, 16).unfold(3, 16, 16).mean(dim=(1, 4, 5))  # (64, 2, 2)
        assert len(quarters.flatten(1).argmax(dim=1).unique()) == corners
    x = torch.rand(50, 1, 8, 8) * 2 - 1
    y = relit(x, torch.Generator().manual_seed(0))
    assert y.abs().max() <= 1
    assert 0 < (y - x).abs().max() <= 0.15 * 2 + 0.1


# --- files ---------------------------------------------------------------------------------------
def test_loaded_judge_is_the_same_to_the_bit_and_a_missing_one_is_told(judge, tmp_path):
    judge.save(tmp_path / "judge")
    loaded = Judge.load(tmp_path / "judge")
    x = torch.rand(5, 1, SIZE, SIZE) * 2 - 1
    assert torch.equal(judge(x).defect_probability, loaded(x).defect_probability)
    assert (loaded.products, loaded.defects) == (judge.products, judge.defects)
    assert loaded.config == judge.config
    assert loaded.card["accuracy"] == judge.card["accuracy"]
    with pytest.raises(CheckpointError, match="nothing.*python -m dtgan_core judge"):
        Judge.load(tmp_path / "none")


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, SIZE, SIZE), (1, SIZE, 16)])
def test_refuses_other_sizes_and_channels(judge, shape):
    with pytest.raises(ValueError, match="python -m dtgan_core judge .*--image-size") as caught:
        judge(torch.zeros(2, *shape))
    assert str(shape) in str(caught.value) and str((1, SIZE, SIZE)) in str(caught.value)


def test_refuses_other_names_and_data_without_all_three_splits(judge, tmp_path):
    judge.check_names(("A", "B", "C"), ("Normal", "Scratches", "Spots"), "the model")
    with pytest.raises(ValueError, match="the model: has the products MTD .*dtgan_core judge"):
        judge.check_names(("MTD",), ("Normal", "Scratches", "Spots"), "the model")
    data = write_judged_dataset(tmp_path, counts=(("train", 2), ("test", 1)))
    dataset = load_dataset(data)
    with pytest.raises(DatasetError, match="val"):
        train_judge(dataset, JudgeConfig.of(dataset, **QUICK), progress=False)
    with pytest.raises(ValueError, match="image_size is 8"):
        JudgeConfig(image_size=8)


# --- the command line ----------------------------------------------------------------------------
def test_command_trains_and_tells(data, tmp_path, capsys, failing):
    out = tmp_path / "judge"
    arguments = ["--data", str(data), "--out", str(out), "--image-size", "16"]
    assert main(["judge", *arguments, "--iterations", "2", "--seed", "3"]) == 0
    printed = capsys.readouterr().out
    assert "Wilson" in printed and "Scratches" in printed and str(out) in printed
    judge = Judge.load(out)
    assert judge.config.image_size == 16 and judge.card["iterations"] == 2
    assert judge.config.seed == 3
    message = failing("judge", "--data", tmp_path / "none", "--out", tmp_path / "judge")
    assert "none" in message
