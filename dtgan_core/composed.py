"""The composed generator, configuration (f), ours: a mask lays the defect over the part.

In the small presets the paper's blend ends in one linear layer (our reading 2), so a defect adds
the same pixels to every product.  Here c and s make its shape, shape and surface its look:

    h = defect_decoder(c, s)                     # blind: where, and how strongly
    m = sigmoid(to_mask(h))                      # (N, 1, H, W); 0 where c is 0
    a = appearance(h + see(b), s, statistics of see(b))
    d, g = to_change(a, b, grain(b))             # grain(b): b less its smoothed self
    x~ = b + m (d + tanh(g) grain(b)) exp(0.4 s_1)

The first number of a drawn style is the mark's contrast, on a logarithmic scale: marks of one shape
differ in that on real parts, and a style that is free to do nothing does nothing.

b is the part without a defect: x itself where x is Normal, so that a good part keeps every pixel
outside the mask, and x repaired inside a mask of G's own where x shows a defect.  The decomposition
into mask and background is that of Mokady et al. and of Defect-GAN.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dtgan_core import layers
from dtgan_core.config import BOTTLENECK_SIZE, ModelConfig
from dtgan_core.layers import Features, Painted, ResBlock, activate, take, unfold_by

CONTRAST = 0.4  # per unit of a style's first number; real marks of a cell differ by .27 to .46
CLOSED = 2.0  # logits begin here below even: masks start at 12 % of full cover


class FullSize(nn.Module):
    """From half of the image's size to all of it: smooth up-sampling, then a layer that sharpens.

    A stroke a pixel wide is where a smooth map crosses a level: the leaky ReLU between two
    convolutions at full size cuts it out.  Without one, strokes are as wide as the up-sampling.

    `wide` are the channels at half size, `width` those at full size, with those of `seen` that come
    at full size; `look` is the length of a code that weighs the channels before the last layer, so
    that it can turn the sign of what is made; 0 for none.
    """

    def __init__(self, wide: int, width: int, out: int, seen: int = 0, look: int = 0) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(wide, width - seen, 1)
        self.sharpen = nn.Conv2d(width, width, 3, padding=1)
        self.tone = nn.Linear(look, width) if look else None
        self.out = nn.Conv2d(width, out, 3, padding=1)

    def forward(self, h: Tensor, *seen: Tensor, look: Tensor | None = None) -> Tensor:
        """h: (N, wide, H / 2, W / 2), seen: (N, ., H, W) each -> (N, out, H, W)."""
        h = activate(F.interpolate(self.narrow(h), scale_factor=2, mode="bilinear"))
        h = activate(self.sharpen(torch.cat([h, *seen], dim=1)))
        if self.tone is not None:
            h = h * (1 + self.tone(look))[:, :, None, None]
        return self.out(h)


def smooth(maps: Tensor) -> Tensor:
    """Binomial 3 x 3 smoothing of every map; takes off whatever alternates from pixel to pixel."""
    side = maps.new_tensor([0.25, 0.5, 0.25])
    kernel = (side[:, None] * side).expand(maps.shape[1], 1, 3, 3)
    return F.conv2d(maps, kernel, padding=1, groups=maps.shape[1])


class ComposedGenerator(nn.Module):
    """G of (f), under the interface of `networks.Generator`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        deep, c, s = config.bottleneck_width, config.defect_width, config.style_dim
        self.cell = config.image_size // BOTTLENECK_SIZE  # pixels a bottleneck cell is wide
        self.door = min(4, self.cell)  # x itself passes outside masks: the trunk may be coarse
        widths = config.widths(BOTTLENECK_SIZE, self.door)
        self.from_image = nn.Conv2d(config.channels * self.door**2, widths[0], 3, padding=1)
        self.encoder = nn.Sequential(
            *(ResBlock(wide, narrow, "instance", "down") for wide, narrow in pairwise(widths)),
            ResBlock(deep, deep, "instance"),
        )
        self.background_decoder = ResBlock(deep - c, deep, "none")
        self.to_background = nn.Conv2d(deep, config.channels * self.cell**2, 3, padding=1)
        self.to_repair = nn.Conv2d(deep, self.cell**2, 3, padding=1)

        widths = config.widths(BOTTLENECK_SIZE, 2)  # from half of the image's size down
        wide = widths[0]
        self.defect_decoder = nn.ModuleList(
            [ResBlock(c, deep, "style", style_dim=s)]
            + [
                ResBlock(narrow, wider, "style", "late", s)
                for narrow, wider in pairwise(reversed(widths))
            ]
        )
        self.to_mask = FullSize(wide, config.width, 1)
        self.see = nn.Conv2d(4 * config.channels, wide, 3, padding=1)
        look = s + 2 * wide
        self.appearance = ResBlock(wide, wide, "style", style_dim=look)
        both = 2 * config.channels
        self.to_change = FullSize(wide, config.width, both, seen=both, look=look)
        layers.initialise(self)
        assert self.to_change.tone is not None
        last = (self.to_mask.out, self.to_change.out, self.to_change.tone)
        layers.begin_quietly(self, self.to_background, self.to_repair, *last)

    def encode(self, x: Tensor) -> Features:
        """Split the bottleneck depth-wise: first channels BG, latter channels FG (section 3.1).

        x is (N, ch, H, W) in [-1, 1].
        """
        h = self.encoder(self.from_image(layers.fold_by(x, self.door)))  # (N, B + C, h, w)
        c = self.config.defect_width
        return Features(*h.split([h.shape[1] - c, c], dim=1))

    def background(self, features: Features, x: Tensor, normal: Tensor | None = None) -> Tensor:
        """The part without its defect, (N, ch, H, W): x itself where it is Normal, else repaired.

        `features` are those of x (N, ch, H, W) in [-1, 1]; `normal` (N,) bool says which images
        show no defect, None: all of them.
        """
        if normal is None:
            return x
        repair = self.to_repair(activate(torch.cat(features, dim=1)))  # (N, cell^2, h, w)
        r = torch.sigmoid(unfold_by(repair, self.cell).float() - CLOSED)  # (N, 1, H, W)
        r = r * ~normal[:, None, None, None]
        b = self.to_background(activate(self.background_decoder(features.background)))
        return x + r.to(b.dtype) * (unfold_by(b, self.cell) - x)

    def paint(self, background: Tensor, c: Tensor, s: Tensor) -> Painted:
        """Lay defects over parts: N * K images with their masks.

        c (N * K, C, h, w) and s (N * K, S) are K defects for each of N backgrounds (N, ch, H, W),
        image after image; K = 1 as a rule.
        """
        background = layers.take_each(background, len(s))
        rows = layers.rows_with_defect(c)
        if len(rows) == len(c):
            change, mask = self._defect(background, c, s)
            return Painted(background + change, mask)
        change, mask = self._defect(take(background, rows), take(c, rows), s[rows])
        n, _, height, width = background.shape
        all_changes = change.new_zeros(background.shape).index_copy(0, rows, change)
        all_masks = mask.new_zeros(n, 1, height, width).index_copy(0, rows, mask)
        return Painted(background + all_changes, all_masks)

    def render(self, background: Tensor, c: Tensor, s: Tensor) -> Tensor:
        """The image of `paint` alone."""
        return self.paint(background, c, s).image

    def shape(self, c: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """The shape of defects c (N, C, h, w), s (N, S), whatever parts they come to lie on.

        -> features (N, width, H / 2, W / 2) and masks (N, 1, H, W) in [0, 1].
        """
        h = c
        for block in self.defect_decoder:
            h = block(h, s)
        h = activate(h)
        m = torch.sigmoid(self.to_mask(h).float() - CLOSED)
        return h, m * (c != 0).flatten(1).any(1)[:, None, None, None]

    def _defect(self, b: Tensor, c: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """What a defect changes of its part, m d of b's shape, and its mask (N, 1, H, W)."""
        h, m = self.shape(c, s)
        surface = activate(self.see(layers.fold(b.to(h.dtype))))
        seen = surface.float().flatten(2)  # (N, width, H / 2 * W / 2)
        mean = seen.mean(dim=2, keepdim=True)
        spread = ((seen - mean).square().mean(dim=2) + 1e-6).sqrt()
        look = torch.cat([s.float(), mean.flatten(1), spread], dim=1).to(h.dtype)
        a = activate(self.appearance(h + surface, look))
        grain = (b - smooth(b)).to(a.dtype)
        d, gain = self.to_change(a, b.to(a.dtype), grain, look=look).chunk(2, dim=1)
        d = d + torch.tanh(gain) * grain
        if self.config.styles == "drawn":
            d = d * torch.exp(CONTRAST * s[:, :1, None, None]).to(d.dtype)
        return m.to(d.dtype) * d, m

    def forward(self, x: Tensor, c: Tensor, s: Tensor, normal: Tensor | None = None) -> Tensor:
        """G(x; c, s): x (N, ch, H, W) in [-1, 1] -> the same shape."""
        background = x if normal is None else self.background(self.encode(x), x, normal)
        return self.render(background, c, s)
