import math

import pytest
import torch
from torch import Tensor, nn

from dtgan_core.composed import CONTRAST, ComposedGenerator
from dtgan_core.config import BOTTLENECK_SIZE, ModelConfig, make_config
from dtgan_core.layers import AdaIN
from dtgan_core.networks import make_generator
from tests.core_fixtures import tiny_store


def generator(**model: object) -> ComposedGenerator:
    torch.manual_seed(0)
    made = make_generator(make_config("tiny", "f", model=model).model)
    assert isinstance(made, ComposedGenerator)
    return made


def guide(config: ModelConfig, count: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    c = torch.randn(count, *config.defect_shape, generator=draw)
    return c, torch.randn(count, config.style_dim, generator=draw)


def parts(config: ModelConfig, count: int) -> Tensor:
    size, draw = config.image_size, torch.Generator().manual_seed(2)
    return torch.rand(count, config.channels, size, size, generator=draw) * 2 - 1


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [32, 64, 128])
def test_shapes_at_every_size(size, channels):
    g = generator(image_size=size, channels=channels)
    x, (c, s) = parts(g.config, 2), guide(g.config, 2)
    features = g.encode(x)
    assert features.defect.shape == (2, g.config.defect_width, BOTTLENECK_SIZE, BOTTLENECK_SIZE)
    image, mask = g.paint(g.background(features, x, torch.tensor([True, False])), c, s)
    assert image.shape == x.shape
    assert mask is not None and mask.shape == (2, 1, size, size)


def test_a_part_without_a_defect_is_itself_and_what_a_mask_leaves_out_stays():
    g = generator()
    x, (c, s) = parts(g.config, 3), guide(g.config, 3)
    c[1] = 0
    image, mask = g.paint(g.background(g.encode(x), x), c, s)
    assert mask is not None
    assert torch.equal(image[1], x[1]) and not mask[1].any()
    assert (image[[0, 2]] != x[[0, 2]]).any(dim=1).flatten(1).any(dim=1).all()
    nn.init.constant_(g.to_mask.out.bias, -30.0)  # type: ignore[arg-type]
    image, mask = g.paint(x[:1], c[:1], s[:1])  # no part without a defect among them
    assert mask is not None and 0 < mask.max() < 1e-4
    assert torch.allclose(image, x[:1], atol=1e-2)


def test_only_a_defective_image_is_repaired_and_k_defects_are_those_of_k_copies():
    g = generator()
    x = parts(g.config, 2)
    b = g.background(g.encode(x), x, torch.tensor([True, False]))
    assert torch.equal(b[0], x[0]) and not torch.equal(b[1], x[1])
    assert torch.equal(g.background(g.encode(x), x), x)
    g = generator()
    x, (c, s) = parts(g.config, 2), guide(g.config, 6)
    once = g.render(x, c, s)
    assert torch.allclose(once, g.render(x.repeat_interleave(3, dim=0), c, s), atol=1e-5)


def test_the_shape_is_blind_and_the_look_is_not():
    """The same c and s: the same mask on every surface, another change on another one."""
    g = generator()
    c, s = (value[:1].repeat_interleave(2, dim=0) for value in guide(g.config, 1))
    x = parts(g.config, 2)
    image, mask = g.paint(x, c, s)
    assert mask is not None
    assert torch.allclose(mask[0], mask[1], atol=1e-5)
    change = image - x
    assert not torch.allclose(change[0], change[1], atol=1e-3)


def test_every_weight_learns():
    g = generator()
    x, (c, s) = parts(g.config, 2), guide(g.config, 2)
    features = g.encode(x)
    image, mask = g.paint(g.background(features, x, torch.tensor([False, False])), c, s)
    assert mask is not None
    (image.square().sum() + mask.sum() + features.defect.sum()).backward()
    learned = {name: weight.grad for name, weight in g.named_parameters()}
    assert not [name for name, grad in learned.items() if grad is None or not grad.isfinite().all()]


def test_d_alone_learns_first():
    from dtgan_core.training import Trainer

    config = make_config("tiny", "f", train={"precision": "fp32", "d_first": 2})
    trainer = Trainer(config, tiny_store())
    before = [weight.clone() for weight in trainer.nets.G.parameters()]
    log = trainer.step()
    assert set(log) == {f"latent/d_{term}" for term in ("adv", "fg", "bg", "r1")}
    trainer.step()
    assert all(map(torch.equal, before, trainer.nets.G.parameters()))
    assert {"latent/adv", "latent/area", "latent/mask_area"} <= set(trainer.step())
    assert not all(map(torch.equal, before, trainer.nets.G.parameters()))


def test_the_first_number_of_a_drawn_style_is_the_contrast() -> None:
    g = generator()
    with torch.no_grad():  # nothing else hears the style
        for layer in (m for m in g.modules() if isinstance(m, AdaIN)):
            layer.affine.weight.zero_()
        assert g.to_change.tone is not None
        g.to_change.tone.weight.zero_()
    x, (c, s) = parts(g.config, 2), guide(g.config, 2)
    change, mask = g.paint(x, c, s)
    stronger, same = g.paint(x, c, s + torch.eye(g.config.style_dim)[0])
    assert torch.allclose(stronger - x, math.exp(CONTRAST) * (change - x), atol=1e-5)
    assert mask is not None and same is not None and torch.equal(mask, same)
