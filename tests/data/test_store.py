"""The image store and the balanced sampler: labels, balance, flips, references, statelessness."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dtgan_core.batches import step_generator, stratified
from dtgan_lab.baselines.config import only
from dtgan_lab.data import (
    BalancedSampler,
    Batch,
    DatasetError,
    ImageError,
    ImageStore,
    load_dataset,
)
from tests.data.test_validation import rehash


@pytest.fixture
def store(small: Path) -> ImageStore:
    return ImageStore.load(load_dataset(small), "train", 16, 1, progress=False)


# ------------------------------------------------------------------------------------------ store
def test_store_holds_the_split_in_the_order_of_the_manifest_at_any_size(small, store):
    manifest = load_dataset(small).manifest
    rows = manifest[manifest["split"] == "train"]
    assert store.paths == list(rows["path"]) and len(store) == 24
    assert store.images.shape == (24, 1, 16, 16) and store.images.dtype == torch.uint8
    assert store.product_names == ("A", "B")
    assert store.defect_names == ("Normal", "Scratches", "Spots") and store.anchor == 0
    assert [store.product_names[p] for p in store.products] == list(rows["product"])
    assert [store.defect_names[y] for y in store.defects] == list(rows["defect"])
    for index in (0, 7, 23):
        pixels = np.asarray(Image.open(small / store.paths[index]))
        np.testing.assert_array_equal(store.images[index, 0].numpy(), pixels)
    assert store.flips.shape == (24, 2) and store.flips.dtype == torch.bool
    assert store.flips[:, 0].all()
    assert torch.equal(store.flips[:, 1], store.products == 1)
    store = ImageStore.load(load_dataset(small), "val", (8, 12), 3, progress=False)
    assert store.images.shape == (12, 3, 8, 12)
    assert torch.equal(store.images[:, 0], store.images[:, 2]), "grey repeated"


def test_masks_are_read_when_asked_for_where_there_are_any(store, make_set):
    masks = store.masks()
    assert masks is not None and masks.shape == (24, 1, 16, 16) and masks.dtype == torch.uint8
    expected = torch.zeros(16, 16, dtype=torch.uint8)
    expected[2:5, 2:5] = 255
    for index in range(24):
        normal = int(store.defects[index]) == store.anchor
        assert torch.equal(masks[index, 0], torch.zeros_like(expected) if normal else expected)
    assert store.masks() is masks
    root = make_set({("pool", "A", "Normal"): 2})
    store = ImageStore.load(load_dataset(root), "pool", 16, 1, progress=False)
    assert store.masks() is None


def test_to_moves_every_tensor_and_to_float_spans_minus_one_to_one(store):
    moved = store.to("meta")
    for name in ("images", "products", "defects", "flips"):
        assert getattr(moved, name).device.type == "meta"
    assert moved.device.type == "meta" and store.device.type == "cpu"
    assert moved.paths == store.paths
    store.images[0] = 0
    store.images[1] = 255
    store.images[2] = 51
    x = store.to_float(torch.tensor([1, 0, 2, 2]))
    assert x.shape == (4, 1, 16, 16) and x.dtype == torch.float32
    assert x[0].unique().tolist() == [1.0] and x[1].unique().tolist() == [-1.0]
    assert x[2, 0, 0, 0].item() == pytest.approx(51 / 127.5 - 1, abs=1e-6)
    assert store.images[2].unique().tolist() == [51], "the store itself is not touched"


@pytest.mark.parametrize("masks_first", [True, False])
def test_one_product_and_some_defects(store, masks_first):
    whole_masks = store.masks() if masks_first else None
    part = only(store, "B", ("Normal", "Spots"))
    kept = ((store.products == 1) & (store.defects != 1)).nonzero().flatten().tolist()
    assert 0 < len(kept) == len(part)
    assert part.paths == [store.paths[index] for index in kept]
    assert torch.equal(part.images, store.images[kept])
    assert torch.equal(part.flips, store.flips[kept])
    assert (part.product_names, part.defect_names) == (("B",), ("Normal", "Spots"))
    assert part.products.tolist() == len(kept) * [0]
    names = [store.defect_names[store.defects[index]] for index in kept]
    assert [part.defect_names[y] for y in part.defects] == names
    whole, masks = whole_masks if masks_first else store.masks(), part.masks()
    assert whole is not None and masks is not None and torch.equal(masks, whole[kept])
    assert only(store, "A", ("Spots", "Normal")).anchor == 1
    assert only(store, "A").defect_names == store.defect_names
    with pytest.raises(ValueError, match="unknown product 'Z'; expected one of"):
        only(store, "Z")
    with pytest.raises(ValueError, match="unknown defect 'Dents'"):
        only(store, "A", ("Normal", "Dents"))


def test_an_empty_split_or_an_undecodable_image_is_named(small):
    with pytest.raises(DatasetError, match=r"'pool', found \['train', 'val'\]"):
        ImageStore.load(load_dataset(small), "pool", 16, 1, progress=False)
    (small / "train/B/Spots/002.png").write_bytes(b"no image")
    rehash(small, "train/B/Spots/002.png")
    with pytest.raises(ImageError, match=r"train/B/Spots/002\.png: cannot be decoded"):
        ImageStore.load(load_dataset(small), "train", 16, 1, progress=False)


# ---------------------------------------------------------------------------------------- sampler
def numbered(store: ImageStore) -> ImageStore:
    """Image i of this store is i in its top left quarter and 200 elsewhere: index and flip show."""
    images = torch.full_like(store.images, 200)
    images[:, :, :8, :8] = torch.arange(len(store), dtype=torch.uint8)[:, None, None, None]
    return dataclasses.replace(store, images=images)


def index_of(x: torch.Tensor) -> list[int]:
    """Indices of numbered images (B, 1, H, W) in [-1, 1]."""
    return ((x.amin(dim=(1, 2, 3)) + 1) * 127.5).round().long().tolist()


def flips_of(x: torch.Tensor) -> list[tuple[bool, bool]]:
    """Whether each numbered image was flipped horizontally, vertically."""
    corner = x[:, 0].amin(dim=(1, 2))
    in_top = x[:, 0, :8].amin(dim=(1, 2)) == corner
    in_left = x[:, 0, :, :8].amin(dim=(1, 2)) == corner
    return list(zip((~in_left).tolist(), (~in_top).tolist(), strict=True))


def same(a: Batch, b: Batch) -> bool:
    assert a.moves is b.moves is None  # the sampler moves nothing
    return all(
        torch.equal(getattr(a, field.name), getattr(b, field.name))
        for field in dataclasses.fields(Batch)
        if field.name != "moves"
    )


def test_a_batch_has_the_promised_form_and_its_seed_is_the_same_on_every_machine(store):
    batch = BalancedSampler(store, 8, seed=0).draw(0)
    for name in ("x", "x_ref", "x_ref2"):
        tensor = getattr(batch, name)
        assert tensor.shape == (8, 1, 16, 16) and tensor.dtype == torch.float32
        assert tensor.min() >= -1 and tensor.max() <= 1
    for name in ("y", "p", "y_trg"):
        assert getattr(batch, name).shape == (8,) and getattr(batch, name).dtype == torch.int64
    # sha256 of "7/1000": must never change, or resumed runs would see other data
    assert step_generator(7, 1000).initial_seed() == 3542464995100778894


def test_a_batch_depends_on_seed_and_step_alone(store):
    sampler = BalancedSampler(store, 8, seed=5)
    torch.manual_seed(1)
    in_order = [sampler.draw(step) for step in range(6)]
    torch.manual_seed(2)
    torch.rand(100)
    resumed = BalancedSampler(store, 8, seed=5)
    for step in (5, 0, 3):
        assert same(resumed.draw(step), in_order[step])
    assert not same(in_order[0], in_order[1])
    assert not same(BalancedSampler(store, 8, seed=6).draw(0), in_order[0])
    before = torch.get_rng_state()
    resumed.draw(3)
    assert torch.equal(torch.get_rng_state(), before), "torch's own generator is left alone"


def test_labels_belong_to_the_images_and_the_two_references_differ(store):
    marked = numbered(store)
    sampler = BalancedSampler(marked, 8, seed=0)
    for step in range(100):
        batch = sampler.draw(step)
        sources = torch.tensor(index_of(batch.x))
        assert torch.equal(marked.defects[sources], batch.y)
        assert torch.equal(marked.products[sources], batch.p)
        first, second = (torch.tensor(index_of(x)) for x in (batch.x_ref, batch.x_ref2))
        for references in (first, second):
            assert torch.equal(marked.defects[references], batch.y_trg)
        assert (first != second).all()


def test_batches_are_balanced_whatever_the_counts(make_set):
    counts = {"A": {"Normal": 40, "Scratches": 2, "Spots": 5}, "B": {"Normal": 17, "Scratches": 9}}
    root = make_set({("train", p, y): n for p, row in counts.items() for y, n in row.items()})
    store = numbered(ImageStore.load(load_dataset(root), "train", 16, 1, progress=False))
    sampler = BalancedSampler(store, 5, seed=1)
    seen: Counter[int] = Counter()
    references: Counter[tuple[int, int]] = Counter()
    for step in range(600):
        batch = sampler.draw(step)
        cells = set(zip(batch.p.tolist(), batch.y.tolist(), strict=True))
        assert cells == {(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)}, "five images, five cells"
        aimed = set(zip(batch.p.tolist(), batch.y_trg.tolist(), strict=True))
        assert aimed <= cells, "no target that its product never has"
        seen.update(index_of(batch.x))
        index = torch.tensor(index_of(batch.x_ref) + index_of(batch.x_ref2))
        pairs = zip(store.defects[index].tolist(), store.products[index].tolist(), strict=True)
        references.update(pairs)
    assert set(seen) == set(range(len(store))), "every image comes"
    scratches_of_a = [count for i, count in seen.items() if store.paths[i].startswith("train/A/Sc")]
    assert all(240 < count < 360 for count in scratches_of_a)  # 300 expected of each
    assert abs(references[1, 0] / (references[1, 0] + references[1, 1]) - 0.5) < 0.04
    assert (2, 1) not in references


def test_targets_do_not_depend_on_sources(store):
    sampler = BalancedSampler(store, 8, seed=2)
    table = torch.zeros(3, 3)
    positions = torch.zeros(8, 3)
    for step in range(1500):
        batch = sampler.draw(step)
        table.index_put_((batch.y, batch.y_trg), torch.ones(8), accumulate=True)
        positions[torch.arange(8), batch.y_trg] += 1
    assert (table / 12000 - 1 / 9).abs().max() < 0.01
    assert (positions / 1500 - 1 / 3).abs().max() < 0.06, "no place in the batch is special"


def test_flips_only_where_they_are_allowed_and_asked_for(store):
    marked = numbered(store)
    sampler = BalancedSampler(marked, 8, seed=3)
    seen: dict[int, Counter[tuple[bool, bool]]] = {0: Counter(), 1: Counter()}
    for step in range(200):
        batch = sampler.draw(step)
        for images in (batch.x, batch.x_ref, batch.x_ref2):
            for index, flips in zip(index_of(images), flips_of(images), strict=True):
                seen[int(marked.products[index])][flips] += 1
    assert set(seen[0]) == {(False, False), (True, False)}
    assert set(seen[1]) == {(a, b) for a in (False, True) for b in (False, True)}
    for counts in seen.values():
        shares = [count / counts.total() for count in counts.values()]
        assert max(shares) - min(shares) < 0.08, "each allowed flip half of the time"
    batch = BalancedSampler(marked, 8, seed=3, flip=False).draw(0)
    for images in (batch.x, batch.x_ref, batch.x_ref2):
        assert set(flips_of(images)) == {(False, False)}


def test_a_class_with_one_image_is_its_own_second_reference(store):
    marked = numbered(store)
    spots = (marked.defects == 2).nonzero()[:, 0].tolist()
    keep = [i for i in range(len(marked)) if i not in spots[1:]]
    tensors = ("images", "products", "defects", "flips")
    kept: dict[str, Any] = {name: getattr(marked, name)[keep] for name in tensors}
    kept |= {name: [getattr(marked, name)[i] for i in keep] for name in ("paths", "mask_paths")}
    batch = BalancedSampler(dataclasses.replace(marked, **kept), 9, seed=0).draw(0)
    pairs = zip(batch.y_trg, index_of(batch.x_ref), index_of(batch.x_ref2), strict=True)
    assert [a == b for y, a, b in pairs if int(y) == 2] == [True] * 3


def test_a_defect_without_images_is_refused(store, info):
    other = dataclasses.replace(store, defect_names=(*info.defects, "Dents"))
    with pytest.raises(DatasetError, match="no image of Dents"):
        BalancedSampler(other, 8, seed=0)
    with pytest.raises(ValueError, match="batch_size is 0"):
        BalancedSampler(store, 0, seed=0)


@pytest.mark.parametrize(("kinds", "count"), [(9, 8), (3, 8), (1, 4), (5, 5), (4, 1)])
def test_stratified_draws_are_as_even_as_possible(kinds, count):
    drawn = Counter(stratified(kinds, count, torch.Generator().manual_seed(0)))
    counts = [drawn[kind] for kind in range(kinds)]
    assert sum(counts) == count and max(counts) - min(counts) <= 1
