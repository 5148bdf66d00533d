"""Extractors: shapes, names, hashes, what is refused, and the same numbers as their sources."""

import os
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision.models._api as torchvision_api
from cleanfid import fid
from cleanfid.inception_torchscript import InceptionV3W
from safetensors.torch import load_file

from dtgan_core.checkpoints import CheckpointError, write_tensors
from dtgan_core.files import sha256_of
from dtgan_lab.data import ImageStore, image_to_array
from dtgan_lab.data.synthetic.sdi import fresh_images, make_synthetic_sdi
from dtgan_lab.measure import pretrained
from dtgan_lab.measure.distances import kid
from dtgan_lab.measure.domain import (
    DISTORTIONS,
    DomainConfig,
    DomainFeatures,
    correlation,
    distorted,
    domain_batch,
    domain_loss,
    knowledge,
    train_domain_features,
)
from dtgan_lab.measure.extractors import load_extractor
from dtgan_lab.measure.features import hash_of_tensors
from dtgan_lab.measure.observers import BalancedDraws
from dtgan_lab.measure.pretrained import InceptionFeatures, SqueezeNetFeatures
from tests.core_fixtures import SIZE, save_picture
from tests.distance_fixtures import (
    QUICK_DOMAIN,
    quick_domain,
    squeezenet_tensors,
    write_inception_stand_in,
)
from tests.evaluation_fixtures import drawing


def noise(count: int, channels: int = 1, side: int = SIZE, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.rand((count, channels, side, side), generator=generator) - 1


# --- hashes and names ----------------------------------------------------------------------------
def test_hash_is_of_names_types_shapes_and_values():
    a, b = torch.arange(4.0), torch.zeros(2)
    reference = hash_of_tensors({"a": a, "b": b})
    assert hash_of_tensors({"b": b.clone(), "a": a.clone()}) == reference
    others: list[dict[str, torch.Tensor]] = [
        {"a": a, "c": b},
        {"a": a.view(2, 2), "b": b},
        {"a": a.half(), "b": b},
        {"a": a + 1e-6, "b": b},
    ]
    assert len({reference, *map(hash_of_tensors, others)}) == 5


def test_unknown_name_is_refused():
    with pytest.raises(ValueError, match="expected one of domain, squeezenet, inception"):
        load_extractor("resnet")


# --- domain --------------------------------------------------------------------------------------
def test_domain_features_are_points_of_fitting_images_whatever_the_batch():
    extract = quick_domain()
    x = noise(7)
    points = extract(x)
    assert points.shape == (7, 16) and points.dtype == np.float32
    assert np.allclose(points, extract(x, batch_size=2), atol=1e-5)
    assert extract(x[:0]).shape == (0, 16)
    assert extract.label("FD") == "FD (domain)" and extract.label("KID") == "KID (domain)"
    # images that do not fit are refused
    with pytest.raises(ValueError, match="1 channels and 16 x 16 pixels.*domain-features"):
        extract(noise(1, side=16))
    with pytest.raises(ValueError, match="3 channels"):
        extract(noise(1, channels=3))
    x = noise(2)
    x[0, 0, 0, :3] = float("nan")
    with pytest.raises(ValueError, match="3 pixels are not finite"):
        extract(x)


def test_domain_features_learn(dataset):
    extract = quick_domain()
    config = DomainConfig.of(dataset, **{**QUICK_DOMAIN, "iterations": 1})
    beginner = train_domain_features(dataset, config, progress=False)
    store = ImageStore.load(dataset, "train", SIZE, 1, progress=False)
    batch = domain_batch(BalancedDraws(store, 36, 99, "domain"), 0)
    with torch.no_grad():
        losses = [float(domain_loss(e.network(batch.x), batch)) for e in (extract, beginner)]
    assert losses[0] < 0.8 * losses[1]
    told = extract.card["test"]
    assert told["cell"]["n"] == 27 and set(told["distortion_r2"]) == set(DISTORTIONS)


def test_batches_hold_every_cell_half_of_them_distorted(dataset):
    store = ImageStore.load(dataset, "train", SIZE, 1, progress=False)
    draws = BalancedDraws(store, 90, 1, "domain")
    batch = domain_batch(draws, 3)
    assert batch.cell.bincount().tolist() == [10] * 9
    assert 0.25 < (batch.strength != 0).any(dim=1).float().mean() < 0.65
    assert batch.masks is not None
    defective = batch.cell % 3 > 0
    assert torch.equal(batch.masks.flatten(1).any(dim=1), defective)  # masks moved along
    again = domain_batch(draws, 3)
    assert torch.equal(again.x, batch.x) and batch.x.abs().max() <= 1


def test_domain_features_are_stored_to_the_bit_and_other_weights_refused(tmp_path):
    extract = quick_domain()
    extract.save(tmp_path)
    again = load_extractor("domain", tmp_path)
    assert again.sha256 == extract.sha256 and again.key == extract.key
    assert np.array_equal(again(noise(5)), extract(noise(5)))
    weights = tmp_path / "domain.safetensors"
    tensors = load_file(weights)
    tensors["embed.bias"] += 1
    write_tensors(weights, tensors)
    with pytest.raises(CheckpointError, match="the card says"):
        load_extractor("domain", tmp_path)


@pytest.mark.parametrize(
    "fields", [{"image_size": 24}, {"image_size": 8}, {"channels": 2}, {"dimension": 0}]
)
def test_sizes_that_cannot_be_are_refused(fields):
    with pytest.raises(ValueError, match="expected"):
        DomainConfig(**fields)


@pytest.mark.parametrize("number", range(len(DISTORTIONS)))
def test_each_distortion_grows_with_its_strength(number):
    images = [drawing(0, 1, i)[0][:, :, 0] for i in range(4)]
    x = torch.from_numpy(np.stack(images))[:, None].float() / 127.5 - 1
    changes = []
    for strength in (0.0, 0.5, 1.0):
        wanted = torch.zeros(4, len(DISTORTIONS))
        wanted[:, number] = strength
        changed = distorted(x, wanted, torch.Generator().manual_seed(0))
        assert changed.shape == x.shape and changed.abs().max() <= 1
        changes.append(float((changed - x).abs().mean()))
    assert changes[0] < 1e-5 < 1e-3 < changes[1] < changes[2]


def test_correlation_is_zero_for_independent_features_alone():
    independent = torch.eye(4).repeat(8, 1) * 2  # columns of equal, small covariance
    same = torch.arange(8.0)[:, None].repeat(1, 3)
    assert correlation(same) > 10
    spread = torch.cat([torch.eye(4), -torch.eye(4)])
    assert float(correlation(spread)) == 0
    assert correlation(independent) < correlation(same)


# --- the committed features ----------------------------------------------------------------------
@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> ImageStore:
    root = tmp_path_factory.mktemp("fresh")
    dataset = make_synthetic_sdi(root, seed=77, scale=0.03, workers=1, progress=False)
    return ImageStore.load(dataset, "train", 64, 1, progress=False)


def test_committed_features_know_fresh_images_and_see_every_distortion(fresh):
    extract = load_extractor("domain")
    assert isinstance(extract, DomainFeatures)
    told = knowledge(extract, fresh)
    assert told["cell"]["right"] >= 0.8
    assert min(told["distortion_r2"].values()) > 0.25
    x = fresh.to_float(torch.arange(0, len(fresh), 2))
    real = extract(x)
    for number, kind in enumerate(DISTORTIONS):
        found = []
        for strength in (0.15, 0.4, 0.9):
            wanted = torch.zeros(len(x), len(DISTORTIONS))
            wanted[:, number] = strength
            changed = distorted(x, wanted, torch.Generator().manual_seed(0))
            found.append(kid(real, extract(changed), subsets=20)["value"])
        assert found[0] < found[1] < found[2], (kind, found)
        assert found[2] > 0.2, (kind, found)


# --- SqueezeNet ----------------------------------------------------------------------------------
def test_squeezenet_takes_torchvisions_layout_and_no_other(tmp_path):
    tensors = squeezenet_tensors()
    bare = {name: v for name, v in tensors.items() if name.startswith("features.")}
    write_tensors(tmp_path / "whole.safetensors", tensors)
    write_tensors(tmp_path / "bare.safetensors", bare)
    whole, features = (
        SqueezeNetFeatures(tmp_path / f"{name}.safetensors") for name in ("whole", "bare")
    )
    assert whole.sha256 == features.sha256
    x = noise(2)
    points = whole(x)
    assert points.shape == (2, 512) and (points >= 0).all() and points.std() > 0
    assert np.array_equal(points, features(x.expand(-1, 3, -1, -1)))
    assert whole.label("KID") == "KID (squeezenet)" and whole.label("FD") == "FD (squeezenet)"
    del tensors["features.0.weight"]
    write_tensors(tmp_path / "less.safetensors", tensors)
    with pytest.raises(CheckpointError, match="do not fit"):
        load_extractor("squeezenet", tmp_path / "less.safetensors")


def test_squeezenet_download_is_checked_and_told(monkeypatch):
    asked: dict[str, Any] = {}

    def give(url: str, **options: Any) -> dict[str, torch.Tensor]:
        asked.update(options)
        return squeezenet_tensors()

    monkeypatch.setattr(torchvision_api, "load_state_dict_from_url", give)
    assert load_extractor("squeezenet").dimension == 512
    assert asked["check_hash"] is True and asked["weights_only"] is True

    def fail(url: str, **options: Any) -> dict[str, torch.Tensor]:
        raise URLError("no network")

    monkeypatch.setattr(torchvision_api, "load_state_dict_from_url", fail)
    with pytest.raises(CheckpointError, match="no network.*--features domain"):
        load_extractor("squeezenet")


def test_published_squeezenet_tells_products_apart():
    name = os.environ.get("DTGAN_SQUEEZENET", "")
    if not name:
        pytest.skip("DTGAN_SQUEEZENET does not name SqueezeNet's weights (safetensors)")
    extract = load_extractor("squeezenet", name)
    a, b = (
        torch.from_numpy(fresh_images(product, "Normal", 6)).float()[:, None] / 127.5 - 1
        for product in ("A", "B")
    )
    first, second = extract(a), extract(b)
    within = np.linalg.norm(first[:3].mean(axis=0) - first[3:].mean(axis=0))
    between = np.linalg.norm(first.mean(axis=0) - second.mean(axis=0))
    assert between > 3 * within


# --- Inception -----------------------------------------------------------------------------------
def test_inception_is_prepared_as_clean_fid_does_and_repeats_grey(tmp_path):
    weights = write_inception_stand_in(tmp_path / "inception-2015-12-05.pt")
    generator = np.random.default_rng(0)
    for number in range(3):
        image = generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        save_picture(tmp_path / "images" / f"{number}.png", image)
    network = InceptionV3W(str(tmp_path), download=False)
    theirs = fid.get_folder_features(
        str(tmp_path / "images"),
        model=network,
        num_workers=0,
        batch_size=2,
        device=torch.device("cpu"),
        mode="clean",
        verbose=False,
    )
    store = [image_to_array(p, 3, 40) for p in sorted((tmp_path / "images").iterdir())]
    x = torch.from_numpy(np.stack(store)).permute(0, 3, 1, 2).float() / 127.5 - 1
    ours = InceptionFeatures(weights, trusted=True)(x)
    assert ours.shape == (3, 2048)
    assert np.allclose(ours, theirs, atol=1e-5) and ours.std() > 0
    extract, grey = InceptionFeatures(weights, trusted=True), noise(2)
    assert np.array_equal(extract(grey), extract(grey.expand(-1, 3, -1, -1)))  # repeated


def test_only_the_published_inception_gives_fid(tmp_path, monkeypatch):
    weights = write_inception_stand_in(tmp_path / "any name.pt")
    extract = load_extractor("inception", weights, trusted=True)
    assert extract.sha256 == sha256_of(weights)
    assert extract.label("FD") == "FD (inception-unverified)"
    monkeypatch.setattr(pretrained, "INCEPTION_SHA256", sha256_of(weights))
    extract = load_extractor("inception", weights)
    assert extract.label("FD") == "FID" and extract.label("KID") == "KID (inception)"


def test_inception_that_is_none_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        load_extractor("inception", tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("no archive")
    with pytest.raises(CheckpointError, match="TorchScript Inception"):
        load_extractor("inception", tmp_path / "text.pt", trusted=True)
    script = torch.jit.script(torch.nn.Identity())
    script.save(str(tmp_path / "other.pt"))
    with pytest.raises(CheckpointError, match="TorchScript Inception"):
        load_extractor("inception", tmp_path / "other.pt", trusted=True)


def test_inception_is_downloaded_once_and_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    kept = tmp_path / "checkpoints"
    published = tmp_path / "published.pt"
    monkeypatch.setattr(pretrained, "inception_url", published.as_uri())
    with pytest.raises(CheckpointError, match="No such file.*--weights FILE"):
        load_extractor("inception")
    write_inception_stand_in(published)
    with pytest.raises(CheckpointError, match="invalid hash value.*--weights FILE"):
        load_extractor("inception")
    assert list(kept.iterdir()) == []
    monkeypatch.setattr(pretrained, "INCEPTION_SHA256", sha256_of(published))
    assert load_extractor("inception").sha256 == sha256_of(published)
    published.unlink()
    assert load_extractor("inception").label("FD") == "FID"  # what is there is taken
    monkeypatch.setattr(pretrained, "INCEPTION_SHA256", "another")
    with pytest.raises(CheckpointError, match="found the hash"):
        load_extractor("inception")
