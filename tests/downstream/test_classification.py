"""Reversal, the domain loss and its trap, the backbones, and what batches show a classifier."""

import hashlib
import math
from dataclasses import replace
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision.models
from torch import Tensor

from dtgan_core.checkpoints import CheckpointError
from dtgan_core.loop import NonFiniteLossError
from dtgan_lab.downstream import classifier as classification
from dtgan_lab.downstream.arms import ARMS
from dtgan_lab.downstream.classifier import (
    ClassifierConfig,
    ClassifierNetwork,
    GradientReversal,
    classifier_config,
    defect_loss,
    domain_loss,
    domain_weights,
    imagenet_weights,
    reversal_strength,
)
from dtgan_lab.downstream.training import (
    Batches,
    cut_mix,
    domain_accuracy,
    measures,
    principal_axes,
    traditional,
    train_classifier,
)
from dtgan_lab.downstream.training_set import TrainingSet
from tests.core_fixtures import tiny_store


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- gradient reversal ---------------------------------------------------------------------------
def test_reversal_keeps_features_and_turns_their_gradient_round():
    x = torch.randn(4, 3, generator=seeded(), requires_grad=True)
    out = GradientReversal.apply(x, 0.7)
    assert torch.equal(out, x)
    out.square().sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, -0.7 * 2 * x.detach())


def test_schedule_is_ganins_and_the_backbone_the_papers():
    assert reversal_strength(0) == 0
    assert reversal_strength(1) == pytest.approx(0.9999, abs=1e-4)
    assert reversal_strength(0.1) == pytest.approx(math.tanh(0.5))
    values = [reversal_strength(p / 20) for p in range(21)]
    assert values == sorted(values)
    assert reversal_strength(0.5, gamma=2) < reversal_strength(0.5)
    config = classifier_config("paper")
    assert (config.backbone, config.weights, config.image_size) == ("resnet50", "imagenet", 128)


def small(**fields: Any) -> ClassifierNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ClassifierNetwork(classifier_config("tiny", dropout=0.0, **fields), 3).eval()


def test_the_domain_loss_goes_up_for_the_backbone_and_down_for_its_own_head():
    x = torch.randn(8, 1, 32, 32, generator=seeded())
    synthetic = torch.arange(8) % 2 == 0

    def gradients(strength: float) -> tuple[Tensor, Tensor]:
        network = small()
        answer = network(x, strength)
        domain_loss(answer.domain, synthetic, torch.ones(8)).backward()
        first = next(network.backbone.parameters()).grad
        head = next(network.domain.parameters()).grad
        assert first is not None and head is not None
        return first, head

    plain, own = gradients(-1.0)  # minus one reverses the reversal
    turned, same = gradients(0.5)
    silent, still = gradients(0.0)
    assert plain.abs().max() > 0
    assert torch.allclose(turned, -0.5 * plain, rtol=1e-4, atol=1e-8)
    assert torch.allclose(own, same) and torch.allclose(own, still)
    assert silent.abs().max() == 0


# --- the trap: Normal is all real ----------------------------------------------------------------
def mixture() -> tuple[Tensor, Tensor, Tensor]:
    """Two products: Normal all real; (0, 1) 2 real 6 synthetic; (0, 2) all real; (1, 1) half."""
    rows = [(0, 0, False)] * 5 + [(0, 1, False)] * 2 + [(0, 1, True)] * 6 + [(0, 2, False)] * 4
    rows += [(1, 0, False)] * 5 + [(1, 1, False)] * 3 + [(1, 1, True)] * 3
    products, defects, synthetic = zip(*rows, strict=True)
    return torch.tensor(synthetic), torch.tensor(defects), torch.tensor(products)


def test_domain_weights_leave_normal_and_one_sided_classes_out_and_balance_the_rest():
    synthetic, defects, products = mixture()
    weights = domain_weights(synthetic, defects, products, anchor=0, reversal="defects")
    assert weights[defects == 0].abs().max() == 0
    assert weights[defects == 2].abs().max() == 0
    for p in (0, 1):
        cell = (products == p) & (defects == 1)
        assert weights[cell & synthetic].sum() == weights[cell & ~synthetic].sum()
        assert float(weights[cell].mean()) == pytest.approx(1)
    assert torch.equal(
        weights, domain_weights(synthetic, defects, products, anchor=0, reversal="off")
    )
    naive = domain_weights(synthetic, defects, products, anchor=0, reversal="all")
    assert torch.equal(naive, torch.ones(len(synthetic)))
    # only the naive loss pays for knowing a defect when one sees it
    says_defect = torch.where(defects == 0, -5.0, 5.0)  # the class, told by the domain head
    undecided = torch.zeros(len(defects))

    def gain(reversal: classification.Reversal) -> float:
        weights = domain_weights(synthetic, defects, products, 0, reversal)
        losses = [domain_loss(d, synthetic, weights) for d in (undecided, says_defect)]
        return float(losses[0] - losses[1])

    # with a milder voice, the class alone tells the domain better than chance over all images
    says_defect = says_defect / 10
    assert gain("all") > 0.05
    assert gain("defects") <= 0


def test_domain_loss_counts_weights_and_defect_loss_what_is_known():
    logits = torch.tensor([0.0, 3.0, -3.0], requires_grad=True)
    synthetic = torch.tensor([True, False, True])
    nothing = domain_loss(logits, synthetic, torch.zeros(3))
    nothing.backward()
    assert nothing == 0 and logits.grad is not None and logits.grad.abs().max() == 0
    one = domain_loss(logits, synthetic, torch.tensor([2.0, 0.0, 0.0]))
    assert float(one.detach()) == pytest.approx(2 * math.log(2))
    logits = torch.tensor([[0.2, 1.0, -0.5], [0.2, 1.0, -0.5]])
    targets = torch.tensor([[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    chances = logits[0].softmax(dim=0)
    known = defect_loss(logits[:1], targets[:1], torch.tensor([True]), anchor=0)
    assert float(known) == pytest.approx(-math.log(chances[1]))
    some = defect_loss(logits[1:], targets[1:], torch.tensor([False]), anchor=0)
    assert float(some) == pytest.approx(-math.log(chances[1] + chances[2]), rel=1e-5)


# --- backbones -----------------------------------------------------------------------------------
@pytest.mark.parametrize("backbone", ["resnet50", "efficientnet_b4"])
def test_torchvision_backbones_take_grey_images(backbone):
    config = ClassifierConfig(backbone=backbone, image_size=64)
    answer = ClassifierNetwork(config, 3).eval()(torch.zeros(2, 1, 64, 64))
    assert answer.defect.shape == (2, 3) and answer.domain.shape == (2,)


def test_a_failed_download_says_where_and_what_to_do(monkeypatch):
    def unreachable(*_: Any, **__: Any) -> None:
        raise URLError("no route to host")

    enum = torchvision.models.ResNet50_Weights
    monkeypatch.setattr(enum, "get_state_dict", unreachable)
    with pytest.raises(CheckpointError, match=r"resnet50-0676ba61.pth.*no route.*--weights FILE"):
        imagenet_weights("resnet50", "imagenet")


def test_weights_by_path_are_pinned_and_loaded(tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match="no such file"):
        imagenet_weights("resnet50", str(tmp_path / "none.pth"))
    file = tmp_path / "mine.pth"
    network = torchvision.models.get_model("resnet50", weights=None)
    torch.save(network.state_dict(), file)
    with pytest.raises(CheckpointError, match=r"mine.pth: its sha256 begins.*expected 0676ba61"):
        imagenet_weights("resnet50", str(file))
    found = hashlib.sha256(file.read_bytes()).hexdigest()

    class Pinned:
        IMAGENET1K_V1 = type("V1", (), {"url": f"https://example.org/resnet50-{found[:8]}.pth"})

    monkeypatch.setattr(torchvision.models, "ResNet50_Weights", Pinned)
    state = imagenet_weights("resnet50", str(file))
    assert torch.equal(state["conv1.weight"], network.conv1.weight)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"backbone": "vgg"}, "expected one of small, resnet50, efficientnet_b4"),
        ({"weights": "imagenet"}, "small has none but 'scratch'"),
    ],
)
def test_config_refuses_nonsense(fields, message):
    with pytest.raises(ValueError, match=message):
        ClassifierConfig(**fields)
    with pytest.raises(ValueError, match="unknown preset 'huge'"):
        classifier_config("huge")


# --- batches -------------------------------------------------------------------------------------
def taught(flips: bool = True) -> TrainingSet:
    """The tiny store's images; the second half of every defect class counts as synthetic."""
    store = tiny_store()
    n = len(store)
    synthetic = (store.defects != 0) & (torch.arange(n) % 3 == 2)
    return TrainingSet(
        images=store.images,
        defects=store.defects,
        products=store.products,
        is_synthetic=synthetic,
        known=torch.ones(n, dtype=torch.bool),
        flips=torch.full((n, 2), flips),
        sources=tuple((path,) for path in store.paths),
    )


def test_batches_balance_classes_and_depend_on_seed_and_step_alone():
    chosen = torch.cat([torch.arange(9), torch.tensor([9, 18])])  # product A, a little of B, C
    few = taught().chosen(torch.isin(torch.arange(27), chosen))
    batches = Batches(few, ARMS["traditional"], torch.ones(11), 3, 20, seed=4)
    batch = batches.draw(1)
    cells = len((few.products * 3 + few.defects).unique())
    assert cells == 5
    # 20 images of 5 cells, 4 each: Normal of A, B and C, a defect of A each
    assert batch.targets.sum(dim=0).tolist() == [12, 4, 4]
    assert torch.equal(batch.x, batches.draw(1).x)
    assert not torch.equal(batch.x, batches.draw(2).x)
    assert batch.x.abs().max() <= 1


def test_without_augmentation_pixels_are_those_of_the_images():
    whole = taught()
    x = Batches(whole, ARMS["none"], torch.ones(27), 3, 9, seed=0).draw(0).x
    known = {image.numpy().tobytes() for image in whole.images}
    made = ((x + 1) * 127.5).round().byte()
    assert all(image.numpy().tobytes() in known for image in made)


def test_traditional_flips_only_where_allowed_and_changes_light_a_little():
    x = torch.full((64, 1, 8, 8), -0.5)
    x[:, :, :, :4] = 0.5  # bright on the left
    for allowed in (False, True):
        out = traditional(x, torch.full((64, 2), allowed), torch.zeros(1, 1), seeded())
        turned = int((out[:, :, :, 0] < out[:, :, :, 7]).all(dim=2).sum())
        assert turned == 0 if not allowed else 16 < turned < 48
    assert 0.1 < float((out.mean(dim=(1, 2, 3))).std()) < 0.2  # uniform to 0.2 has 0.115


def test_lighting_goes_along_the_principal_colour_axes():
    grey = torch.randint(0, 256, (50, 1, 16, 16), generator=seeded(), dtype=torch.uint8)
    axes = principal_axes(grey.expand(50, 3, 16, 16))
    assert torch.allclose(
        axes @ axes.T, torch.full((3, 3), float((axes @ axes.T)[0, 0])), atol=1e-5
    )
    shade = torch.zeros(40, 3, 4, 4)
    moved = traditional(shade, torch.zeros(40, 2, dtype=torch.bool), axes, seeded())
    assert (moved.amax(dim=1) - moved.amin(dim=1)).max() < 1e-4, "grey light leaves grey grey"
    assert principal_axes(grey).shape == (1, 1)


def test_cut_mix_labels_are_the_shares_of_the_area():
    x = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 1, 20, 20).contiguous()
    targets = torch.eye(6)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    for seed in range(5):
        mixed, shares = cut_mix(x, targets, seeded(seed))
        for n in range(6):
            for label in range(6):
                area = float((mixed[n] == label).float().mean())
                assert float(shares[n, label]) == pytest.approx(area, abs=1e-6)
        assert torch.allclose(shares.sum(dim=1), torch.ones(6))
        again, _ = cut_mix(x, targets, seeded(seed))
        assert torch.equal(mixed, again)
    assert torch.equal(before, torch.get_rng_state())
    assert len(mixed.unique()) == 6


# --- training and measures -----------------------------------------------------------------------
def test_a_classifier_that_diverges_is_told_and_gives_no_result():
    config = classifier_config("tiny", iterations=4, check_every=2, lr=1e30)
    with pytest.raises(NonFiniteLossError, match="lower the learning rate"):
        train_classifier(taught(), tiny_store(), ARMS["traditional"], config, 0, progress=False)


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_state():
    config = classifier_config("tiny", iterations=3, check_every=1)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    runs = [
        train_classifier(
            taught(), tiny_store(), ARMS["dtgan-latent+reversal"], config, seed, progress=False
        )
        for seed in (0, 0, 1)
    ]
    assert torch.equal(expected, torch.rand(1))
    one, two, other = (run.network.state_dict() for run in runs)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["defect.weight"], other["defect.weight"])
    assert runs[0].domain_accuracy is not None


def test_domain_accuracy_is_weighted_and_none_where_nothing_counts():
    network, whole = small(), taught()
    weights = domain_weights(whole.is_synthetic, whole.defects, whole.products, 0, "defects")
    with torch.no_grad():
        for parameter in network.domain.parameters():
            parameter.zero_()
        list(network.domain.parameters())[-1].fill_(1.0)  # "synthetic", whatever it sees
    assert domain_accuracy(network, whole, weights) == pytest.approx(0.5)
    assert float(whole.is_synthetic[whole.defects > 0].float().mean()) == pytest.approx(1 / 3)
    assert domain_accuracy(network, whole, torch.zeros(27)) is None


def test_measures_of_known_answers():
    store = tiny_store()  # 27 images, 9 a defect
    perfect = torch.eye(3)[store.defects]
    best = measures(perfect, store)
    assert best["error"] == 0 and best["defect_recall"] == 1 and best["auroc"] == 1
    assert best["confusion"] == [[9, 0, 0], [0, 9, 0], [0, 0, 9]]
    wrong = perfect.clone()
    spots = (store.defects == 2).nonzero().flatten()
    wrong[spots[0]] = torch.tensor([1.0, 0.0, 0.0])  # missed, surely
    wrong[spots[1]] = torch.tensor([0.0, 1.0, 0.0])  # taken for the other defect
    found = measures(wrong, store)
    assert found["error"] == pytest.approx(2 / 27, abs=1e-6)
    assert found["recall"] == {"Normal": 1, "Scratches": 1, "Spots": pytest.approx(7 / 9, abs=1e-6)}
    assert found["balanced_error"] == pytest.approx(2 / 27, abs=1e-6)
    # nine Normal images: one false reject is more than 1 %, so the missed spot stays missed
    assert found["defect_recall"] == pytest.approx(17 / 18, abs=1e-6)
    assert found["n"] == 27 and found["n_normal"] == 9
    assert set(found["error_by_product"]) == {"A", "B", "C"}
    cells = found["recall_by_cell"]  # the two wrong spots, wherever they are
    assert len(cells) == 9 and cells["A Normal"] == 1
    of_spots = [cells[f"{p} Spots"] for p in "ABC"]
    counts = [int(((store.defects == 2) & (store.products == p)).sum()) for p in range(3)]
    missed = sum(n * (1 - share) for n, share in zip(counts, of_spots, strict=True))
    assert missed == pytest.approx(2, abs=1e-4)
    fewer = replace(store, defects=torch.where(store.defects == 1, 0, store.defects))
    skewed = measures(wrong[:, [0, 0, 2]] + torch.tensor([1e-3, 0, 0]), fewer)
    assert skewed["error"] == pytest.approx(2 / 27, abs=1e-6)
    assert skewed["balanced_error"] == pytest.approx((0 / 18 + 2 / 9) / 2, abs=1e-6)
