import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dtgan_core.checkpoints import CheckpointError
from dtgan_core.networks import Guide
from dtgan_core.synthesis import Synthesizer, approximate_masks, find_images, to_uint8
from dtgan_lab.data import ImageError
from tests.core_fixtures import (
    SIZE,
    calls_of,
    picture,
    save_picture,
    tiny_config,
    tiny_store,
    write_tiny_export,
)

DEFECTS = ("Scratches", "Spots")


def sources(count: int) -> Tensor:
    store = tiny_store()
    return store.to_float(torch.arange(count) % len(store))


def levels_apart(a: Tensor, b: Tensor) -> int:
    """Largest difference in grey levels."""
    first, second = to_uint8(a).astype(int), to_uint8(b).astype(int)
    assert first.shape == second.shape
    return int(np.abs(first - second).max())


# --- loading -------------------------------------------------------------------------------------
def test_it_loads_from_an_export_or_from_its_run(export, synth):
    of_run = Synthesizer.load(export.parent)
    assert of_run.checkpoint_hash == synth.checkpoint_hash
    assert synth.products == ("A", "B", "C")
    assert synth.defects == ("Normal", "Scratches", "Spots")
    assert synth.anchor == "Normal"
    assert synth.config == tiny_config()
    assert not any(w.requires_grad for net in (synth.G, synth.M, synth.E) for w in net.parameters())
    summary = synth.summary()
    assert summary["trained on"] == "tiny"
    assert summary["licence of the data"] == "CC0"
    assert summary["defects"] == "Normal, Scratches, Spots"
    assert synth.checkpoint_hash.startswith(summary["weights sha256"])


def test_a_folder_without_an_export_says_what_was_found(export, tmp_path):
    with pytest.raises(CheckpointError, match=r"missing: found nothing, expected card\.json"):
        Synthesizer.load(tmp_path / "missing")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(CheckpointError, match=r"found \['notes\.txt'\].*RUN/export"):
        Synthesizer.load(tmp_path)
    folder = Path(shutil.copytree(export, tmp_path / "copy"))
    (folder / "ema.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"found \['card\.json'\]"):
        Synthesizer.load(folder)


# --- the same seed, the same image ---------------------------------------------------------------
@pytest.mark.parametrize("size", [1, 3])
def test_a_seed_names_an_image_whatever_the_batch(size, synth):
    x = sources(8)
    together = synth.latent_guided(x, "Scratches", seed=5)
    assert torch.equal(together, synth.latent_guided(x, "Scratches", seed=5))
    starts = range(0, 8, size)
    pieces = [synth.latent_guided(x[k : k + size], "Scratches", 5, k) for k in starts]
    assert levels_apart(torch.cat(pieces), together) <= 1
    # ... and the images themselves are far apart, so that one level means something
    assert levels_apart(together[:1], synth.latent_guided(x[:1], "Scratches", seed=6)) > 4


def test_pixel_noise_belongs_to_the_index_and_an_unknown_defect_is_refused(synth):
    together = synth.latent_guides("Spots", 3, range(4))
    alone = synth.latent_guides("Spots", 3, [2])
    assert torch.allclose(together.c[2], alone.c[0], atol=1e-4)
    assert torch.allclose(together.s[2], alone.s[0], atol=1e-4)
    assert not torch.allclose(together.c[2], together.c[1], atol=1e-2)
    for call in (
        lambda: synth.latent_guided(sources(1), "Dents"),
        lambda: synth.reference_guided(sources(1), sources(1), "scratches"),
    ):
        with pytest.raises(ValueError, match=r"unknown defect.*Normal, Scratches, Spots"):
            call()


# --- guidance ------------------------------------------------------------------------------------
@pytest.mark.parametrize("defect", ["Normal", *DEFECTS])
def test_shapes_and_range_of_plain_tensors(defect, synth):
    x = sources(4)
    images = [
        synth.latent_guided(x, defect),
        synth.reference_guided(x, sources(4), defect),
        synth.reference_guided(x, sources(1), defect),
    ]
    for fakes in images:
        assert fakes.shape == x.shape
        assert fakes.dtype == torch.float32
        assert float(fakes.abs().max()) <= 1
        # not inference tensors: a user may go on computing with them, gradients included
        assert not fakes.is_inference() and not fakes.requires_grad
        fakes.requires_grad_().square().sum().backward()
        assert fakes.grad is not None


def test_one_reference_gives_shape_and_style_of_many_images(synth):
    x, first, second = sources(2), sources(12)[9:11], sources(16)[14:16]
    expected = synth.paint(synth.background(x), synth.reference_guides(first, "Scratches"))
    assert torch.equal(synth.reference_guided(x, first, "Scratches"), expected)
    assert not torch.equal(synth.reference_guided(x, second, "Scratches"), expected)
    found = synth.reference_guided(sources(3), first[:1], "Spots")
    each = synth.reference_guided(sources(3), first[:1].repeat(3, 1, 1, 1), "Spots")
    assert levels_apart(found, each) <= 1  # one reference serves many images


def test_normal_takes_no_style_and_is_what_is_without_a_defect(synth):
    x = sources(2)
    fakes = [synth.latent_guided(x, "Normal", seed=seed) for seed in (0, 1)]
    fakes.append(synth.reference_guided(x, sources(9)[7:9], "Normal"))
    fakes.append(synth.without_defect(synth.background(x)))
    assert all(torch.equal(fakes[0], other) for other in fakes[1:])


def test_a_style_sweep_decodes_the_background_once(synth):
    x = sources(2)
    c, _ = synth.reference_guides(sources(12)[9:11], "Scratches")
    styles = synth.latent_guides("Scratches", 0, range(5)).s
    G = synth.G
    with calls_of(G.encoder, G.background_decoder[0], G.pool_background) as sizes:
        sweep = synth.style_sweep(x, c, styles)
    assert sizes == [2, 2, 2]
    assert sweep.shape == (2, 5, 1, SIZE, SIZE)
    for n in range(2):
        for k in range(5):
            guide = Guide(c[n : n + 1], styles[k : k + 1])
            alone = synth.paint(synth.background(x[n : n + 1]), guide)
            assert levels_apart(sweep[n, k][None], alone) <= 1
    assert levels_apart(sweep[:, 0], sweep[:, 1]) > 1
    # one map on many images
    c, s = synth.reference_guides(sources(1), "Spots")
    sweep = synth.style_sweep(sources(3), c, s)
    guides = Guide(c.repeat(3, 1, 1, 1), s.repeat(3, 1))
    expected = synth.paint(synth.background(sources(3)), guides)
    assert levels_apart(sweep[:, 0], expected) <= 1


def test_painting_many_defects_on_a_background(synth):
    background = synth.background(sources(2))
    guide = synth.latent_guides("Spots", 0, range(6))
    together = synth.paint(background, guide)
    assert together.shape == (6, 1, SIZE, SIZE)
    of_second = synth.paint(synth.background(sources(2)[1:]), Guide(guide.c[3:], guide.s[3:]))
    assert levels_apart(together[3:], of_second) <= 1


@pytest.mark.parametrize("letter", ["a", "b", "d"])
def test_every_configuration_synthesises(letter, tmp_path):
    synth = Synthesizer.load(write_tiny_export(tmp_path, tiny_config(letter)))
    x = sources(2)
    fakes = synth.latent_guided(x, "Scratches")
    assert fakes.shape == x.shape
    pieces = [synth.latent_guided(x[n : n + 1], "Scratches", first=n) for n in range(2)]
    assert levels_apart(torch.cat(pieces), fakes) <= 1
    assert synth.reference_guided(x, sources(1), "Spots").shape == x.shape
    # without an anchor, the image itself has no defect
    assert torch.equal(synth.without_defect(synth.background(x)), x)


def test_an_old_defect_is_repaired_where_a_part_is_not_normal(tmp_path):
    synth = Synthesizer.load(write_tiny_export(tmp_path, tiny_config("f")))
    x = sources(2)
    whole, mixed = synth.background(x), synth.background(x, torch.tensor([True, False]))
    assert torch.equal(whole.map, x)
    assert torch.equal(mixed.map[0], x[0])
    assert not torch.equal(mixed.map[1], x[1])


# --- images of users -----------------------------------------------------------------------------
@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two good images, one in a folder below, and much that is none."""
    root = tmp_path / "parts"
    save_picture(root / "b.png", picture(0, 0, 0))
    save_picture(root / "below" / "a.BMP", picture(1, 0, 0))
    save_picture(root / ".hidden.png", picture(2, 0, 0))
    save_picture(root / ".ipynb_checkpoints" / "b-checkpoint.png", picture(2, 0, 0))
    (root / "notes.txt").write_text("not an image")
    return root


def test_images_of_a_folder_a_file_a_list(folder, synth, tmp_path):
    assert find_images(folder) == [folder / "b.png", folder / "below/a.BMP"]
    found = synth.images(folder)
    assert found.shape == (2, 1, SIZE, SIZE)
    expected = np.stack([picture(0, 0, 0), picture(1, 0, 0)])
    assert np.array_equal(to_uint8(found), expected)
    assert float(found.min()) >= -1 and float(found.max()) <= 1
    assert torch.equal(synth.images(str(folder / "b.png")), found[:1])
    in_order = synth.images([folder / "below/a.BMP", str(folder / "b.png")])
    assert torch.equal(in_order, found.flip(0))
    # what is hidden inside the folder is passed over, not where the folder lies
    save_picture(tmp_path / ".cache/parts/x.png", picture(0, 0, 0))
    assert len(synth.images(tmp_path / ".cache/parts")) == 1


def test_no_image_is_said_and_a_file_that_is_none_named(synth, tmp_path):
    with pytest.raises(ValueError, match="gone: no such file or folder"):
        synth.images(tmp_path / "gone")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match=r"found no image, expected files ending in.*\.png"):
        synth.images(tmp_path)
    with pytest.raises(ValueError, match="no image"):
        synth.images([])
    (tmp_path / "bad.png").write_bytes(b"not a picture")
    with pytest.raises(ImageError, match=r"bad\.png"):
        synth.images(tmp_path)


def test_a_colour_model_takes_grey_and_colour(tmp_path):
    config = tiny_config()
    colour = replace(config, model=replace(config.model, channels=3))
    synth = Synthesizer.load(write_tiny_export(tmp_path / "export", colour))
    save_picture(tmp_path / "parts/grey.png", picture(0, 0, 0))
    save_picture(tmp_path / "parts/rgb.png", picture(0, 0, 0, channels=3))
    x = synth.images(tmp_path / "parts")
    assert x.shape == (2, 3, SIZE, SIZE)
    assert torch.equal(x[0, 0], x[0, 2]) and not torch.equal(x[1, 0], x[1, 2])
    assert synth.latent_guided(x, "Spots").shape == x.shape


# --- numbers and masks ---------------------------------------------------------------------------
def test_grey_levels_and_approximate_masks_by_hand():
    levels = torch.tensor([-1.0, 1.0, 0.0, 0.5, -3.0, 3.0]).view(1, 1, 1, 6)
    # (x + 1) * 127.5: 0, 255, 127.5 (to even: 128), 191.25, and clipped
    assert to_uint8(levels).flatten().tolist() == [0, 255, 128, 191, 0, 255]
    every = torch.arange(256).view(1, 1, 16, 16)
    assert np.array_equal(to_uint8(every / 127.5 - 1)[0, :, :, 0], every[0, 0].numpy())
    x = np.full((3, 9, 9, 1), 100, np.uint8)
    fakes = x.copy()
    fakes[0, 4, 4] = 244  # 144 in one pixel: 16 in each of 3 x 3, which is the floor: nothing
    fakes[1, 4, 4] = 253  # 153: 17 in each of 3 x 3
    fakes[2, 3:6, 3:6] = 40  # 60 in 3 x 3: 60 in the middle, 40 beside, 26.7 at its corners
    masks = approximate_masks(x, fakes)
    assert masks.dtype == np.uint8 and set(np.unique(masks)) <= {0, 255}
    assert masks[0].max() == 0
    expected = np.zeros((9, 9), np.uint8)
    expected[3:6, 3:6] = 255
    assert np.array_equal(masks[1], expected)
    # a third of the maximum is 20; beyond the square, 3 of 9 pixels give 20, not above it
    assert np.array_equal(masks[2], expected)
    x = np.zeros((1, 5, 5, 3), np.uint8)
    fakes = x.copy()
    fakes[0, :, :, 0] = 60  # 60 / 3 = 20 above the floor of 16
    assert approximate_masks(x, fakes).min() == 255
    fakes[0, :, :, 0] = 45  # 15
    assert approximate_masks(x, fakes).max() == 0
