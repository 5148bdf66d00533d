"""The four networks of DT-GAN (Fig. 2): generator, mapping network, encoder, discriminator.

One code for every configuration of the ablation: with no switch on, this is StarGAN v2 in
structure; the switches of `ModelConfig` add the paper's steps (b) to (e), and ours, (f), whose
generator stands in `composed`.

Shapes: N images, `ch` image channels, S style length, and a defect map c of (C, h, w) with
h = w = 16 and C the latter half of the bottleneck's channels.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dtgan_core import layers
from dtgan_core.composed import ComposedGenerator
from dtgan_core.config import BOTTLENECK_SIZE, ModelConfig
from dtgan_core.layers import Features, Guide, Painted, ResBlock, activate, pick_domain, pool


class Generator(nn.Module):
    """G: puts the defect (c, s) onto the background of x, in three steps.

        features = G.encode(x)                       # once an image
        background = G.background(features)          # once an image
        x_fake = G.render(background, c, s)          # once a defect or style

    In (d) and (e) `background` decodes BG_G(x) without style and `render` decodes c alone; before
    (d) there is one decoder, so `background` hands BG_G(x) on and `render` decodes [BG_G(x), c].
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths(BOTTLENECK_SIZE)  # full resolution first
        bottleneck, style = widths[-1], config.style_dim
        pairs = list(pairwise(widths))
        pixels = config.channels * config.fold**2
        self.from_image = nn.Conv2d(pixels, widths[0], 3, padding=1)
        down, up = ("fold", "unfold") if config.resample == "fold" else ("down", "up")
        self.encoder = nn.Sequential(
            *(ResBlock(wide, narrow, "instance", down) for wide, narrow in pairs),
            *(ResBlock(bottleneck, bottleneck, "instance") for _ in range(2)),
        )

        def decoder(dim_in: int, norm: str, up: str) -> nn.ModuleList:
            return nn.ModuleList(
                [
                    ResBlock(dim_in, bottleneck, norm, style_dim=style),
                    ResBlock(bottleneck, bottleneck, norm, style_dim=style),
                ]
                + [ResBlock(deep, flat, norm, up, style) for flat, deep in reversed(pairs)]
            )

        if config.separate_decoders:
            self.background_decoder = decoder(bottleneck - config.defect_width, "none", up)
            grow = {"nearest": "up", "bilinear": "smooth", "unfold": "unfold"}[config.defect_up]
            self.defect_decoder = decoder(config.defect_width, "style", grow)
            # "Depth-wise pooling" = a 1 x 1 convolution over [background, defect] (our reading 2).
            # It is the sum of one convolution of each, so the background's is done once an image.
            pooled = pixels if config.blend == "layered" else widths[0]
            self.pool_background = nn.Conv2d(widths[0], pooled, 1)
            self.pool_defect = nn.Conv2d(widths[0], pooled, 1, bias=False)
        else:
            self.decoder = decoder(bottleneck, "style", up)
            self.norm = layers.InstanceNorm(widths[0], layers.SLOPE)
        if not self.layered:
            self.to_image = nn.Conv2d(widths[0], pixels, 1)
        layers.initialise(self)
        # Close to an auto-encoder.  Measured on the synthetic SDI: mean |x - G(x)| of one after 300
        # steps of 8 falls from 0.10 to 0.05 with this and a background decoder without norm (our
        # reading; instance norm would also take away the lighting that (d) is said to keep).
        layers.begin_quietly(self, self.pool_background if self.layered else self.to_image)
        if config.separate_decoders:
            self.pool_defect.weight.data.mul_(0.1 if self.layered else 0.3)

    @property
    def layered(self) -> bool:
        """Whether an image is the sum of two, of the background and of the defect."""
        return self.config.separate_decoders and self.config.blend == "layered"

    def encode(self, x: Tensor) -> Features:
        """Split the bottleneck depth-wise: first channels BG, latter channels FG (section 3.1).

        x is (N, ch, H, W) in [-1, 1].
        """
        h = self.encoder(self.from_image(layers.fold_by(x, self.config.fold)))  # (N, B + C, h, w)
        c = self.config.defect_width
        background, defect = h.split([h.shape[1] - c, c], dim=1)
        return Features(background.contiguous(memory_format=torch.channels_last), defect)

    def background(
        self, features: Features, x: Tensor | None = None, normal: Tensor | None = None
    ) -> Tensor:
        """Everything of the output that no defect or style can change; computed once an image.

        (N, width, H, W) in (d) and (e), an image (N, ch, H, W) where these are layered, both folded
        as the data is; BG_G(x) itself (N, B, h, w) before (d). Only (f) looks at `x` and `normal`.
        """
        if not self.config.separate_decoders:
            return features.background
        h = features.background
        for block in self.background_decoder:
            h = block(h)
        return self.pool_background(activate(h) if self.layered else h)

    def render(self, background: Tensor, c: Tensor, s: Tensor) -> Tensor:
        """Decode defects under their styles and lay them over backgrounds.

        c (N * K, C, h, w) and s (N * K, S) are K defects for each of N backgrounds, image after
        image; K = 1 as a rule. -> (N * K, ch, H, W), about [-1, 1]; not clipped.
        """
        background = layers.take_each(background, len(s))
        if not self.config.separate_decoders:
            h = torch.cat([background, c.to(background.dtype)], dim=1)  # (N, B + C, h, w)
            for block in self.decoder:
                h = block(h, s)
            return layers.unfold_by(self.to_image(self.norm(h)), self.config.fold)
        rows = layers.rows_with_defect(c)
        if not self.config.anchor_zero or len(rows) == len(c):
            pooled = background + self._defect(c, s)
        else:
            h = torch.zeros_like(background)  # a zero row needs no decoding
            h[rows] = self._defect(layers.take(c, rows), s[rows]).to(h.dtype)
            pooled = background + h
        image = pooled if self.layered else self.to_image(activate(pooled))
        return layers.unfold_by(image, self.config.fold)

    def paint(self, background: Tensor, c: Tensor, s: Tensor) -> Painted:
        """`render` under the interface of a generator that has masks."""
        return Painted(self.render(background, c, s), None)

    def _defect(self, c: Tensor, s: Tensor) -> Tensor:
        """What the defect decoder adds to a decoded background, of the same shape."""
        h = c
        for block in self.defect_decoder:
            h = block(h, s)
        h = self.pool_defect(activate(h) if self.layered else h)
        if self.config.anchor_zero:
            # AdaIN of a zero map is its shift: without this a style could repaint Normal images
            # (our reading 9).
            h = h * (c != 0).flatten(1).any(1)[:, None, None, None]
        return h

    def forward(self, x: Tensor, c: Tensor, s: Tensor, normal: Tensor | None = None) -> Tensor:
        """G(x; c, s): x (N, ch, H, W) in [-1, 1] -> the same shape; `normal` is not looked at."""
        return self.render(self.background(self.encode(x)), c, s)


def make_generator(config: ModelConfig) -> Generator | ComposedGenerator:
    """G of a configuration: the paper's, or that of (f)."""
    return ComposedGenerator(config) if config.blend == "composed" else Generator(config)


class DefectBranch(nn.Module):
    """A domain's branch of M that grows a defect map from the shared hidden code.

    4 x 4 from a linear layer, then doubled to 16 x 16; per-pixel noise after every convolution
    when `noise` is on (e).  With `places` "shifted" the map is drawn on a torus, so that it has no
    edges, and then moved by up to `REACH` cells to every side: where to is read off the finest
    noise, by its highest value (ours).
    """

    SEED_SIZE, REACH = 4, 5

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.bottleneck_width
        self.width = width
        self.seed = nn.Linear(config.hidden_dim, width * self.SEED_SIZE**2)
        stages = len(noise_sizes())
        self.shifted = config.noise and config.places == "shifted"
        edge: Literal["circular", "zeros"] = "circular" if self.shifted else "zeros"
        self.convs = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=1, padding_mode=edge) for _ in range(stages)
        )
        self.noise = nn.ModuleList(
            layers.PixelNoise(width) for _ in range(stages if config.noise else 0)
        )
        self.to_defect = nn.Conv2d(width, config.defect_width, 3, padding=1, padding_mode=edge)

    def forward(self, hidden: Tensor, noise: list[Tensor]) -> Tensor:
        """hidden: (N, hidden_dim), noise: maps of `noise_sizes` or [] -> (N, C, h, w)."""
        h = self.seed(hidden).view(-1, self.SEED_SIZE, self.SEED_SIZE, self.width)
        h = h.permute(0, 3, 1, 2)  # channels_last memory without a copy
        for stage, conv in enumerate(self.convs):
            if stage:
                h = F.interpolate(h, scale_factor=2, mode="nearest")
            h = conv(h)
            if self.noise:
                h = self.noise[stage](h, noise[stage])
            h = activate(h)
        c = self.to_defect(h)
        return self._moved(c, noise[-1]) if self.shifted else c

    def _moved(self, c: Tensor, finest: Tensor) -> Tensor:
        """Roll each map, by the place of the highest value among (2 REACH + 1)^2 of its noise."""
        span = 2 * self.REACH + 1
        place = finest[:, 0, :span, :span].flatten(1).argmax(dim=1)  # (N,)
        lines = torch.arange(c.shape[-1], device=c.device)
        down, right = place // span - self.REACH, place % span - self.REACH
        y = (lines - down[:, None]) % len(lines)  # (N, h): where each line comes from
        x = (lines - right[:, None]) % len(lines)  # (N, w)
        image = torch.arange(len(c), device=c.device)[:, None, None]
        return c.permute(0, 2, 3, 1)[image, y[:, :, None], x[:, None, :]].permute(0, 3, 1, 2)


def noise_sizes() -> list[int]:
    """Sides of the noise maps that a `DefectBranch` takes: 4, 8, 16."""
    stages = (BOTTLENECK_SIZE // DefectBranch.SEED_SIZE).bit_length()
    return [DefectBranch.SEED_SIZE << stage for stage in range(stages)]


def _mlp(first: int, width: int, depth: int) -> nn.Sequential:
    steps: list[nn.Module] = []
    for wide in [first] + (depth - 1) * [width]:
        steps += [nn.Linear(wide, width), nn.ReLU()]
    return nn.Sequential(*steps)


class MappingNetwork(nn.Module):
    """M: a latent z becomes a defect and a style of domain y, (c, s) = M_y(z) (section 3.1)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        hidden = config.hidden_dim
        self.shared = _mlp(config.latent_dim, hidden, 4)
        self.style = nn.ModuleList(
            nn.Sequential(*_mlp(hidden, hidden, 3), nn.Linear(hidden, config.style_dim))
            for _ in range(config.defects if config.styles == "mapped" else 0)
        )
        # The anchor domain's c is zero whoever makes it, so it needs no branch in (e).
        self.defect = nn.ModuleDict(
            {
                str(y): DefectBranch(config)
                for y in range(config.defects)
                if config.split_style_defect and not (config.anchor_zero and y == config.anchor)
            }
        )
        layers.initialise(self)

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, list[Tensor]]:
        """Draw the latents of `count` defects: z (count, Z) and the pixel noise, on the CPU.

        The noise belongs to the z: reuse it to get the same defect again (our reading 6).
        """
        z = torch.randn(count, self.config.latent_dim, generator=generator)
        sizes = noise_sizes() if self.config.noise else []
        return z, [torch.randn(count, 1, side, side, generator=generator) for side in sizes]

    def forward(self, z: Tensor, y: Tensor, noise: list[Tensor]) -> Guide:
        """z: (N, Z), y: (N,) labels, noise: as `draw` gives it -> c (N, C, h, w), s (N, S)."""
        hidden = self.shared(z)
        if self.config.styles == "drawn":
            s = z[:, : self.config.style_dim]
        else:
            s = pick_domain(torch.stack([branch(hidden) for branch in self.style], dim=1), y)
        c = s.new_zeros(z.shape[0], *self.config.defect_shape)
        c = c.contiguous(memory_format=torch.channels_last)
        for name, branch in self.defect.items():
            chosen = y == int(name)
            if layers.waits(y):
                c = torch.where(chosen[:, None, None, None], branch(hidden, noise), c)
            else:
                rows = chosen.nonzero().flatten()
                c[rows] = branch(hidden[rows], [level[rows] for level in noise]).to(c.dtype)
        return Guide(c, s)


class StyleDefectEncoder(nn.Module):
    """E: reads defect and style of domain y from an image, (c, s) = E_y(x) (section 3.1)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        pooled = config.heads == "pooled"
        widths = config.widths(BOTTLENECK_SIZE if pooled else 4)
        deep = widths[-1]
        self.from_image = nn.Conv2d(config.channels * config.fold**2, widths[0], 3, padding=1)
        self.trunk = nn.ModuleList(
            ResBlock(wide, narrow, "none", "down") for wide, narrow in pairwise(widths)
        )
        self.squeeze = nn.Linear(2 * deep, deep) if pooled else nn.Conv2d(deep, deep, 4)
        self.style = nn.Linear(deep, config.defects * config.style_dim)  # all branches at once
        if config.split_style_defect:
            self.defect_block = ResBlock(config.bottleneck_width, config.bottleneck_width, "none")
            self.to_defect = nn.Conv2d(
                config.bottleneck_width, config.defects * config.defect_width, 3, padding=1
            )
        layers.initialise(self)

    def forward(self, x: Tensor, y: Tensor) -> Guide:
        """x: (N, ch, H, W) in [-1, 1], y: (N,) -> c (N, C, h, w), s (N, S)."""
        pooled = self.config.heads == "pooled"
        h = self.from_image(layers.fold_by(x, self.config.fold))
        at_bottleneck = h
        for block in self.trunk:
            h = block(h)
            at_bottleneck = h if h.shape[-1] == BOTTLENECK_SIZE else at_bottleneck
        c = x.new_zeros(x.shape[0], 0, BOTTLENECK_SIZE, BOTTLENECK_SIZE)
        if self.config.split_style_defect:
            seen = self.defect_block(at_bottleneck)
            c = self._branch(seen, y)
            h = seen if pooled else h
        h = activate(h)
        h = activate(self.squeeze(pool(h) if pooled else h)).flatten(1)  # (N, deep)
        s = pick_domain(self.style(h).unflatten(1, (self.config.defects, -1)), y)
        return Guide(c, s)

    def _branch(self, h: Tensor, y: Tensor) -> Tensor:
        branches = self.to_defect(activate(h))  # (N, domains * C, h, w)
        branches = branches.permute(0, 2, 3, 1).unflatten(3, (self.config.defects, -1))
        c = branches[torch.arange(len(y), device=y.device), :, :, y].permute(0, 3, 1, 2)
        if self.config.anchor_zero:
            c = torch.where((y == self.config.anchor)[:, None, None, None], 0.0, c)
        return c


class Verdict(NamedTuple):
    """What D says of images, in logits.

    `real` (N, domains) are its real/fake branches, one a defect domain; `defect` (N, domains) is
    D_FG's and `product` (N, products) D_BG's, None where the classifier is off.
    """

    real: Tensor
    defect: Tensor | None
    product: Tensor | None


class Discriminator(nn.Module):
    """D: a real/fake branch for every defect domain, and the two classifiers (section 3.1).

    D_FG reads D's deep features ("in the latent space"), D_BG is a small network of its own on the
    image ("on the image level"): our reading 3.  With pooled heads D_BG reads the same features.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        pooled, pixels = config.heads == "pooled", config.channels * config.fold**2
        widths = config.widths(8 if pooled else 4)
        deep = widths[-1]
        self.trunk = nn.Sequential(
            nn.Conv2d(pixels, widths[0], 3, padding=1),
            *(ResBlock(wide, narrow, "none", "down") for wide, narrow in pairwise(widths)),
        )
        self.squeeze = None if pooled else nn.Conv2d(deep, deep, 4)
        deep = 2 * deep if pooled else deep
        branches = config.defects * (config.products if config.branches == "cell" else 1)
        self.real = nn.Linear(deep, branches)
        self.fg_classifier = nn.Linear(deep, config.defects) if config.fg_classifier else None
        self.bg_classifier: nn.Module | None = None
        if config.bg_classifier and pooled:
            self.bg_classifier = nn.Linear(deep, config.products)
        elif config.bg_classifier:
            sizes = config.widths(8)
            steps: list[nn.Module] = [nn.Conv2d(pixels, sizes[0], 3, padding=1)]
            for wide, narrow in pairwise(sizes):
                steps += [nn.LeakyReLU(0.2), nn.Conv2d(wide, narrow, 4, stride=2, padding=1)]
            steps += [nn.LeakyReLU(0.2), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
            self.bg_classifier = nn.Sequential(*steps, nn.Linear(sizes[-1], config.products))
        layers.initialise(self)

    def forward(self, x: Tensor, p: Tensor | None = None) -> Verdict:
        """Judge images x (N, ch, H, W) in [-1, 1]; p (N,) is needed where D has a branch a cell."""
        x = layers.fold_by(x, self.config.fold)
        h = activate(self.trunk(x))
        h = pool(h) if self.squeeze is None else activate(self.squeeze(h)).flatten(1)  # (N, deep)
        real = self.real(h)
        if self.config.branches == "cell":
            assert p is not None
            real = pick_domain(real.unflatten(1, (self.config.products, -1)), p)
        seen = h if self.squeeze is None else x
        return Verdict(
            real=real,
            defect=self.fg_classifier(h) if self.fg_classifier is not None else None,
            product=self.bg_classifier(seen) if self.bg_classifier is not None else None,
        )


class Networks(nn.Module):
    """The four networks of one experiment, under the paper's letters."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.G: Any = make_generator(config)  # one of two under one interface
        self.M = MappingNetwork(config)
        self.E = StyleDefectEncoder(config)
        self.D = Discriminator(config)
