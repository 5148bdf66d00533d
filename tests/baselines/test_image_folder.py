"""Anybody's images as a system: what a folder or a table says, what is refused, and `classify`."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from dtgan_core.checkpoints import CheckpointError
from dtgan_core.synthesis import to_uint8
from dtgan_lab.baselines.generators import ImageFolder
from dtgan_lab.baselines.zoo import FOLDER, Wish, load_system, method_of
from dtgan_lab.cli.main import main
from dtgan_lab.downstream.comparison import read_results
from tests.baselines.baseline_fixtures import write_images
from tests.core_fixtures import DEFECTS, PRODUCTS, failure, save_picture
from tests.downstream_fixtures import PER_CLASS, write_pooled_dataset
from tests.evaluation_fixtures import drawing

CELLS = [(p, d) for p in PRODUCTS for d in DEFECTS[1:]]


def strange(count: int, side: int = 32) -> Tensor:
    """Images of every cell in turn that nobody else has, (count, 1, side, side)."""
    generator = torch.Generator().manual_seed(5)
    return 2 * torch.rand(count, 1, side, side, generator=generator) - 1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_images(tmp_path / "made", strange(8 * len(CELLS)), 8 * CELLS)


def wish(n: int, seed: int = 0, first: int = 0, side: int = 32) -> Wish:
    return Wish("B", "Spots", torch.zeros(n, 1, side, side), seed=seed, first=first)


def test_a_seed_gives_every_image_of_a_cell_once(folder):
    system = load_system(folder)
    assert isinstance(system, ImageFolder) and method_of(folder) == FOLDER
    made = system.images_of(wish(8), "latent")
    assert made.masks is None
    own = to_uint8(strange(8 * len(CELLS))[CELLS.index(("B", "Spots")) :: len(CELLS)])
    found = {image.tobytes() for image in to_uint8(made.images)}
    assert found == {image.tobytes() for image in own}
    rest = torch.cat([system.images_of(wish(3, first=f), "latent").images for f in (0, 3)])
    assert torch.equal(rest, made.images[:6])
    assert not torch.equal(system.images_of(wish(8, seed=1), "latent").images, made.images)
    assert (system.ways, system.facts()) == (("latent",), {"models": 0})
    # images come in the size of the parts and are never enlarged
    colour = Wish("B", "Spots", torch.zeros(2, 3, 16, 16))
    assert system.images_of(colour, "latent").images.shape == (2, 3, 16, 16)
    with pytest.raises(ValueError, match="is 32 x 32 pixels, expected at least 64 x 64"):
        system.images_of(wish(2, side=64), "latent")


def test_its_hash_is_that_of_images_and_labels(folder):
    before = load_system(folder).checkpoint_hash
    assert load_system(folder).checkpoint_hash == before
    (folder / "A").rename(folder / "D")
    assert load_system(folder).checkpoint_hash != before


def test_a_table_says_what_images_show_and_where(tmp_path):
    lines = ["path,product,defect,mask"]
    for number in range(4):
        image, _, mask = drawing(0, 1, number)
        save_picture(tmp_path / f"x/{number}.png", image)
        save_picture(tmp_path / f"m/{number}.png", mask)
        lines.append(f"x/{number}.png,A,{'Scratches' if number < 3 else 'Spots'},m/{number}.png")
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    for source in (tmp_path, tmp_path / "manifest.csv"):
        made = load_system(source).images_of(Wish("A", "Scratches", torch.zeros(3, 1, 32, 32)), "")
        assert made.masks is not None and made.masks.shape == (3, 1, 32, 32)
        assert (made.masks.sum(dim=(1, 2, 3)) == 24).all()
        assert (made.images[made.masks].mean() - made.images[~made.masks].mean()) > 0.3
    (tmp_path / "manifest.csv").write_text("\n".join(lines).replace(",m/0.png", ","))
    assert load_system(tmp_path).images_of(wish(1)._replace(product="A"), "").masks is not None
    three = Wish("A", "Scratches", torch.zeros(3, 1, 32, 32))
    assert load_system(tmp_path).images_of(three, "").masks is None


def test_what_says_too_little_is_refused(folder, tmp_path, capsys):
    with pytest.raises(ValueError, match=r"holds 8 images of A Spots, expected at least 9 \(found"):
        load_system(folder).check("A", "Spots", 9)
    with pytest.raises(ValueError, match="holds 0 images of A Cracks"):
        load_system(folder).check("A", "Cracks")
    (folder / "A" / "Spots").rename(tmp_path / "flat")
    with pytest.raises(ValueError, match="expected .*/PRODUCT/DEFECT/"):
        load_system(tmp_path / "flat")
    data = write_pooled_dataset(tmp_path / "data")
    with pytest.raises(ValueError, match="is a data set, .* such as .*/test"):
        load_system(data)
    assert isinstance(load_system(data / "test"), ImageFolder)
    for empty in (tmp_path / "none", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(CheckpointError, match="expected card.json .* or images as PRODUCT"):
            load_system(empty)
    asked = ["generate", "--checkpoint", folder, "--defect", "Spots", "--out", tmp_path / "new"]
    assert "holds images, expected a trained model" in failure(capsys, *asked)


def classify(data: Path, out: Path, baseline: str, per_class: int = PER_CLASS) -> list[str]:
    line = f"classify --data {data} --out {out} --preset tiny --iterations 1 --seeds 1"
    return [*line.split(), "--images-per-class", str(per_class), "--baseline", baseline]


def test_a_strangers_images_teach_a_classifier(folder, tmp_path, capsys):
    data, out = write_pooled_dataset(tmp_path / "data"), tmp_path / "rows.jsonl"
    words = classify(data, out, f"diffusion={folder}")
    assert main([*words, "--arms", "none,diffusion"]) == 0
    rows = {row["arm"]: row for row in read_results(out)}
    assert rows["diffusion"]["title"] == "images of diffusion"
    assert rows["diffusion"]["checkpoint_sha256"] == load_system(folder).checkpoint_hash
    assert rows["diffusion"]["counts"]["Spots"] == {"real": 18, "synthetic": 18}
    assert rows["none"]["checkpoint_sha256"] is None
    assert main([*words, "--arms", "all"]) == 0  # the arms of before are not run again
    assert [row["arm"] for row in read_results(out)][:2] == ["none", "diffusion"]
    assert [row["arm"] for row in read_results(out)].count("diffusion") == 1
    more = classify(data, out, f"diffusion={folder}", PER_CLASS + 9)
    message = failure(capsys, *more, "--arms", "diffusion")
    assert "holds 8 images of A Scratches, expected at least 9" in message
    assert "'dtgan-both' cannot name an arm" in failure(
        capsys, *classify(data, out, f"dtgan-both={folder}")
    )
