"""The generator of DT-GAN (Fig. 2), and what its parts and the other networks hand each other.

Shapes: N images, `ch` image channels, S style length, and a defect map c of (C, h, w) with
h = w = 16 and C the latter half of the bottleneck's channels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dtgan_core.config import BOTTLENECK_SIZE, ModelConfig
from dtgan_core.layers import (
    SLOPE,
    Features,
    InstanceNorm,
    Painted,
    ResBlock,
    activate,
    fold_by,
    initialise,
    rows_with_defect,
    take,
    take_each,
    unfold_by,
)


class Guide(NamedTuple):
    """What is put onto a background: a defect map and a style.

    Attributes:
        c: (N, C, h, w); no channels in (a).
        s: (N, S).
    """

    c: Tensor
    s: Tensor


def pick_domain(branches: Tensor, y: Tensor) -> Tensor:
    """Take branch y[n] of image n.  branches: (N, domains, ...), y: (N,) -> (N, ...)."""
    return branches[torch.arange(y.shape[0], device=y.device), y]


def pool(h: Tensor) -> Tensor:
    """Mean and maximum over the pixels of a map: (N, C, H, W) -> (N, 2 C)."""
    return torch.cat([h.mean(dim=(2, 3)), h.amax(dim=(2, 3))], dim=1)


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
        pairs = list(zip(widths[:-1], widths[1:], strict=True))
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
            self.norm = InstanceNorm(widths[0], SLOPE)
        if not self.layered:
            self.to_image = nn.Conv2d(widths[0], pixels, 1)
        initialise(self)
        self._begin_quietly()

    @property
    def layered(self) -> bool:
        """Whether an image is the sum of two, of the background and of the defect."""
        return self.config.separate_decoders and self.config.blend == "layered"

    def _begin_quietly(self) -> None:
        """Start close to an auto-encoder: quiet residual branches, faint defect, small output.

        Measured on the synthetic SDI: mean |x - G(x)| of an auto-encoder after 300 steps of 8 falls
        from 0.10 to 0.05 with this and a background decoder without norm (our reading; instance
        norm would also take away the lighting that (d) is said to keep).
        """
        for module in self.modules():
            if isinstance(module, ResBlock):
                module.conv2.weight.data.mul_(0.3)
        last = self.pool_background if self.layered else self.to_image
        last.weight.data.mul_(0.3)
        if self.config.separate_decoders:
            self.pool_defect.weight.data.mul_(0.1 if self.layered else 0.3)

    def encode(self, x: Tensor) -> Features:
        """Split the bottleneck depth-wise: first channels BG, latter channels FG (section 3.1).

        Args:
            x: (N, ch, H, W) in [-1, 1].
        """
        h = self.encoder(self.from_image(fold_by(x, self.config.fold)))  # (N, B + C, h, w)
        c = self.config.defect_width
        background, defect = h.split([h.shape[1] - c, c], dim=1)
        return Features(background.contiguous(memory_format=torch.channels_last), defect)

    def background(
        self, features: Features, x: Tensor | None = None, normal: Tensor | None = None
    ) -> Tensor:
        """Everything of the output that no defect or style can change; computed once an image.

        Args:
            features: from `encode`.
            x: not looked at here, see `composed.ComposedGenerator.background`.
            normal: neither.

        Returns:
            (N, width, H, W) in (d) and (e), an image (N, ch, H, W) where these are layered, both
            folded as the data is; BG_G(x) itself (N, B, h, w) before (d).
        """
        if not self.config.separate_decoders:
            return features.background
        h = features.background
        for block in self.background_decoder:
            h = block(h)
        return self.pool_background(activate(h) if self.layered else h)

    def render(self, background: Tensor, c: Tensor, s: Tensor) -> Tensor:
        """Decode a defect under its style and lay it over a background.

        Args:
            background: from `background`, for N images.
            c: (N * K, C, h, w), K defects an image, image after image; K = 1 as a rule.
            s: (N * K, S).

        Returns:
            (N * K, ch, H, W), about [-1, 1]; not clipped.
        """
        background = take_each(background, len(s))
        if not self.config.separate_decoders:
            h = torch.cat([background, c.to(background.dtype)], dim=1)  # (N, B + C, h, w)
            for block in self.decoder:
                h = block(h, s)
            return unfold_by(self.to_image(self.norm(h)), self.config.fold)
        rows = rows_with_defect(c)
        if not self.config.anchor_zero or len(rows) == len(c):
            pooled = background + self._defect(c, s)
        else:
            h = torch.zeros_like(background)  # a zero row needs no decoding
            h[rows] = self._defect(take(c, rows), s[rows]).to(h.dtype)
            pooled = background + h
        image = pooled if self.layered else self.to_image(activate(pooled))
        return unfold_by(image, self.config.fold)

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
