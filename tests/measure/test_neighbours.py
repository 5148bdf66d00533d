"""A generator that looks training images up is caught, fresh real images are not."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dtgan_lab.measure.neighbours import SPACES, Gallery, Search, slid
from dtgan_lab.measure.yardsticks import fresh_gallery
from tests.distance_fixtures import untrained_domain

CELLS = (("A", "Scratches"), ("B", "Spots"))
COUNT = 40


def gallery(seed: int, count: int = COUNT, flips: bool = False) -> Gallery:
    """Drawn images of two cells."""
    drawn = fresh_gallery(CELLS, count, seed, 64)
    allowed = torch.tensor([[True, False]]).repeat(len(drawn.x), 1) if flips else None
    return Gallery(drawn.x, drawn.masks, drawn.cells, allowed)


@pytest.fixture(scope="module")
def train() -> Gallery:
    return gallery(11, flips=True)


@pytest.fixture(scope="module")
def search(train: Gallery) -> Search:
    return Search(train, gallery(12), untrained_domain())


@pytest.fixture(scope="module")
def fresh() -> Gallery:
    return gallery(13)


def looked_up(train: Gallery, change: Callable[[Tensor], Tensor]) -> tuple[Gallery, Tensor]:
    """A generator that picks a training image and changes it a little; and its picks."""
    picks = torch.randperm(len(train.x), generator=torch.Generator().manual_seed(0))[:30]
    assert train.masks is not None and train.cells is not None
    masks = change(train.masks[picks].float()) > 0.5
    cells = [train.cells[i] for i in picks.tolist()]
    return Gallery(change(train.x[picks]).clamp(-1, 1), masks, cells), picks


def moved(x: Tensor, down: int, right: int) -> Tensor:
    """Shifted by whole pixels, the border repeated."""
    padded = F.pad(x, [2] * 4, mode="replicate")
    height, width = x.shape[2:]
    return padded[:, :, 2 - down : 2 - down + height, 2 - right : 2 - right + width]


def grainy(x: Tensor) -> Tensor:
    """Darker, with a little grain; masks survive it."""
    return x - 0.06 + 0.02 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "as it is": lambda x: x,
    "jittered": lambda x: moved(x, 2, -1),
    "mirrored": lambda x: x.flip(3),
    "all of it": lambda x: grainy(moved(x.flip(3), -2, 2)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_looked_up_images_are_caught(search, train, name):
    fakes, picks = looked_up(train, CHANGES[name])
    found = search(fakes)["image"]
    assert found.copies.float().mean() >= 0.95
    assert found.score.median() < 0.3
    assert (found.index[:, 0] == picks).float().mean() >= 0.95
    flipped = "horizontal" if name in ("mirrored", "all of it") else ""
    assert sum(row[0] == flipped for row in found.mirrored) >= 28


def test_a_looked_up_defect_on_another_part_is_caught_by_its_crop(search, train, fresh):
    fakes, _ = looked_up(train, lambda x: x)
    assert fakes.masks is not None and fakes.cells is not None
    around = F.max_pool2d(fakes.masks.float(), 25, stride=1, padding=12) > 0
    # the other part is of the same product, so that nothing but the whole image differs
    cells = [list(CELLS).index(cell) for cell in fakes.cells]  # type: ignore[arg-type]
    parts = fresh.x[[cell * COUNT + n for n, cell in enumerate(cells)]]
    mixed = Gallery(torch.where(around, fakes.x, parts), fakes.masks, fakes.cells)
    found = search(mixed)
    assert found["crop"].copies.float().mean() >= 0.9


def test_fresh_real_images_are_not_caught(search, fresh):
    found = search(fresh)
    assert set(found) == set(SPACES)
    for name, nearest in found.items():
        assert nearest.copies.float().mean() <= 0.08, name
        assert 0.8 < nearest.score.median() < 1.25, name


def test_scores_are_told_within_a_cell():
    def pictures(seed: int) -> Gallery:
        noise = torch.rand(40, 1, 32, 32, generator=torch.Generator().manual_seed(seed)) - 0.5
        noise[:10] *= 0.2  # a calm product: all of it lies near all of it
        noise[:10, :, :16] += 1  # and far from the other one
        return Gallery(noise, cells=["calm"] * 10 + ["lively"] * 30)

    search = Search(pictures(0), pictures(1))
    fakes = pictures(2)
    apart = search(fakes)["image"]
    assert 0.9 < apart.score[:10].median() < 1.1 and 0.9 < apart.score[10:].median() < 1.1
    together = search(Gallery(fakes.x))["image"]
    assert together.score[:10].median() < 0.5 < together.score[10:].median()
    unknown = search(Gallery(fakes.x, cells=["new"] * 40))["image"]  # no median of its own
    assert torch.equal(unknown.score, together.score)


def test_mirror_images_count_only_where_they_are_allowed(train):
    strict = Search(Gallery(train.x, train.masks, train.cells), gallery(12))
    fakes, picks = looked_up(train, CHANGES["mirrored"])
    found = strict(fakes)["image"]
    assert found.copies.float().mean() < 0.2
    assert all(word == "" for row in found.mirrored for word in row)


def test_blurred_images_are_no_copies_and_neighbours_are_sorted_and_distinct(search, fresh):
    # they lie nearer than real ones do, since they have no grain of their own
    blurred = F.avg_pool2d(F.pad(fresh.x, [4] * 4, mode="replicate"), 9, stride=1)
    for name, nearest in search(Gallery(blurred, fresh.masks, fresh.cells)).items():
        assert nearest.copies.float().mean() <= 0.05, name
    for nearest in search(fresh, count=7).values():
        assert nearest.index.shape == nearest.distance.shape == (len(fresh.x), 7)
        assert (nearest.distance.diff(dim=1) >= 0).all()
        assert all(len(set(row)) == 7 for row in nearest.index.tolist())
        assert len(nearest.mirrored) == len(fresh.x) and len(nearest.mirrored[0]) == 7


def test_distance_is_that_of_the_best_offset_and_brightness_does_not_count():
    x = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    views, middle = slid(moved(x, 1, -2) * 0.5 + 0.2, 2), slid(x * 0.5, 0)
    assert views.shape[:2] == (1, 25) and middle.shape[:2] == (1, 1)
    distance = (views - middle).norm(dim=2)[0]
    assert distance.min() < 1e-5 and int(distance.argmin()) == 3 * 5 + 0  # down 1, left 2
    assert distance.sort().values[1] > 0.05
    with pytest.raises(ValueError, match="at most 4"):
        slid(x, 5)


def test_spaces_are_those_of_both_sides_and_what_does_not_fit_is_refused(train, search, fresh):
    with pytest.raises(ValueError, match="2 cells for 3 images"):
        Gallery(torch.zeros(3, 1, 64, 64), cells=["a", "b"])
    with pytest.raises(ValueError, match="bring them to one size"):
        search(Gallery(torch.zeros(2, 1, 32, 32)))
    with pytest.raises(ValueError, match="found 0 training"):
        Search(Gallery(train.x[:0]), train)
    held_out = gallery(12)
    assert set(Search(train, held_out)(fresh)) == {"image", "crop"}
    assert set(Search(train, held_out)(Gallery(fresh.x))) == {"image"}
    assert set(Search(Gallery(train.x), held_out)(fresh)) == {"image"}
