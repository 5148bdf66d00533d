"""Every knob of the kit in one immutable place: presets, the ablation's switches, loss weights.

A *preset* sizes the networks and their training; an *ablation* letter switches the paper's design
steps on, from (a), StarGAN v2 in structure, to (e), the full DT-GAN.  Schedules are functions of
the step (`Config.diversity_weight`), never fields that change.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

from dtgan_core.files import typed

BOTTLENECK_SIZE = 16  # side of the bottleneck map at every image size (our reading 1)
PAPER_PIXELS = 2**14  # width times image size in `paper`, as in StarGAN v2 (our reading 1)

# Ranges of the fields of every configuration of the kit, by name.  What is not named here: a whole
# number from 1 to 10^9, any other from 0 to 10^6.
RANGES: dict[str, tuple[float, float]] = {
    "image_size": (1, 1024),
    "fold": (1, 2),
    "batch_size": (1, 4096),
    "iterations": (1, 10**7),
    "seed": (0, 2**32 - 1),
    "anchor": (0, 9999),
    **dict.fromkeys(("defects", "products"), (1, 10_000)),
    **dict.fromkeys(("width", "max_width", "separate", "chunk"), (1, 2048)),
    **dict.fromkeys(("latent_dim", "style_dim", "hidden_dim", "hidden"), (1, 4096)),
    **dict.fromkeys(("class_dim", "dimension"), (1, 4096)),
    "attention_size": (0, 1024),
    "mapping_layers": (1, 64),
    "d_steps": (1, 1000),
    "d_first": (0, 10**7),
    **dict.fromkeys(("lr", "lr_mapping", "lr_d"), (0, 1e30)),  # what diverges is told by the loop
    **dict.fromkeys(("weight_decay", "ema_decay", "defect_share", "path_memory"), (0, 1)),
    **dict.fromkeys(("diversity_share", "fg_left"), (0, 1)),
    "d_shift": (0, 0.5),
    "target": (-1, 1),
    **dict.fromkeys(("beta1", "beta2", "dropout"), (0, 0.999999)),
}
_KINDS = {bool: (bool,), int: (int,), float: (int, float)}  # of a default: what may replace it


def check_fields(config: Any, group: str = "") -> None:
    """Refuse misspelt words and numbers of another kind or out of range in a configuration.

    ValueError names the first of them, behind its `group`; `config` is a dataclass.
    """
    hints = get_type_hints(type(config))
    for item in dataclasses.fields(config):
        name, value, kind = group + item.name, getattr(config, item.name), type(item.default)
        words = hints[item.name]
        if get_origin(words) is Literal and value not in get_args(words):
            raise ValueError(f"{name} is {value!r}; expected one of {', '.join(get_args(words))}")
        if kind not in _KINDS:
            continue
        if type(value) not in _KINDS[kind]:
            raise ValueError(f"{name} is {value!r}; expected {kind.__name__}")
        low, high = RANGES.get(item.name, (1, 10**9) if kind is int else (0, 10**6))
        if kind is not bool and not low <= value <= high:  # NaN is in no range
            raise ValueError(f"{name} is {value}; expected {low} to {high}")


class Sizes:
    """What the sizes of all networks of the kit have in common, DT-GAN's and the baselines'."""

    def check_sizes(self: Any) -> None:
        """Refuse (ValueError) images that networks cannot halve or show, and an unknown anchor."""
        check_fields(self)
        size = self.image_size
        if size < 2 * BOTTLENECK_SIZE or size & (size - 1):
            raise ValueError(f"image_size is {size}; expected a power of two, at least 32")
        if self.channels not in (1, 3):
            raise ValueError(f"channels is {self.channels}; expected 1 (grey) or 3 (colour)")
        if self.anchor >= self.defects:
            raise ValueError(f"anchor is {self.anchor}; expected 0 to {self.defects - 1}")

    def widths(self: Any, smallest: int, fold: int | None = None) -> list[int]:
        """Channels at `image_size` / fold, then after every halving down to `smallest` pixels."""
        fold = getattr(self, "fold", 1) if fold is None else fold
        halvings = self.image_size.bit_length() - smallest.bit_length()
        widths = [min(self.width << k, self.max_width) for k in range(halvings + 1)]
        return widths[fold.bit_length() - 1 :]


@dataclass(frozen=True)
class ModelConfig(Sizes):
    """Sizes of the four networks and the switches of the ablation (Fig. 3)."""

    image_size: int = 64  # side of the square images in pixels; a power of two, at least 32
    channels: int = 1  # 1 for grey data, 3 for colour
    width: int = 16  # channels at full resolution; they double at every halving ...
    max_width: int = 64  # ... up to this many
    latent_dim: int = 16  # length of z
    style_dim: int = 64  # length of s (512 in the paper)
    hidden_dim: int = 128  # width of the mapping network's fully connected layers
    defects: int = 3  # number of foreground domains, the anchor included
    products: int = 3  # number of background domains
    anchor: int = 0  # index of the defect-free domain ("Normal")
    defect_share: float = 0.5  # of the bottleneck's channels (our reading 1: half)
    # How G halves and doubles a map: "pool" is StarGAN v2's pooling and nearest up-sampling;
    # "fold", of the small presets, gives texture a way around the pooling wherever the background
    # passes (see `layers.ResBlock`).
    resample: Literal["pool", "fold"] = "pool"
    # How the two decoded maps become an image from (d) on.  "pooled" mixes them by a 1 x 1
    # convolution, then an activation, then `to_image`; "layered" makes each an image by a 1 x 1
    # convolution of its own and adds them: nothing that the background's features hold can show
    # where the defect meets them (our reading 2; notebook 14); "composed", (f), ours, lays the
    # defect over x itself by a mask, see `composed`.
    blend: Literal["pooled", "layered", "composed"] = "pooled"
    # How the defect decoder doubles its maps: "nearest" as StarGAN v2, "bilinear", or "unfold", by
    # which a cell of c draws its pixels one by one.
    defect_up: Literal["nearest", "bilinear", "unfold"] = "nearest"
    # Where a drawn defect lies.  "learned" leaves it to M; "shifted" moves each drawn map to a
    # random place (`networks.DefectBranch`), for M of short runs draws few places over and over
    # (ours; part of `noise`).
    places: Literal["learned", "shifted"] = "learned"
    # Side of the pixel cells that G, E and D take as channels at their door; 2 halves the side of
    # every map, where a processor is faster (ours; 1 in `paper`).
    fold: int = 1
    # How E and D read a map off into numbers: "squeezed" by a 4 x 4 convolution at 4 x 4 as
    # StarGAN v2, or "pooled", mean and maximum over the map at 16 x 16 (E) and 8 x 8 (D), which
    # tells a small mark wherever it lies and learns several times faster; D's product classifier
    # then reads the same features.
    heads: Literal["squeezed", "pooled"] = "squeezed"
    # D has one real/fake branch a "defect" domain (the paper), or one a "cell", that is a product
    # and defect, and so can call a mark wrong for its product (ours).
    branches: Literal["defect", "cell"] = "defect"
    # "mapped" leaves s to M's branches (the paper); "drawn" takes the first numbers of z, which no
    # loss can shrink, the first of them as the mark's contrast (ours; `composed`).
    styles: Literal["mapped", "drawn"] = "mapped"
    split_style_defect: bool = True  # (b) c and s apart, the bottleneck split depth-wise
    fg_classifier: bool = True  # (c) the defect classifier, equation (6)
    bg_classifier: bool = True  # (c) the product classifier, equation (7)
    separate_decoders: bool = True  # (d) background decoded apart from the defect, without style
    anchor_zero: bool = True  # (e) c of the anchor domain is zero
    noise: bool = True  # (e) per-pixel noise in the branch of M that makes c

    def __post_init__(self) -> None:
        self.check_sizes()
        if self.separate_decoders and not self.split_style_defect:
            raise ValueError("separate_decoders needs split_style_defect: there is no c to decode")
        if (self.anchor_zero or self.noise) and not self.split_style_defect:
            raise ValueError("anchor_zero and noise act on c: they need split_style_defect")
        if self.anchor_zero and not self.separate_decoders:
            # One decoder sees the style whatever c is, so a style would still repaint Normal.
            raise ValueError("anchor_zero needs separate_decoders: one decoder cannot leave c out")
        if self.split_style_defect and not 0 < self.defect_width < self.bottleneck_width:
            raise ValueError(
                f"defect_share is {self.defect_share} of {self.bottleneck_width} channels; "
                "expected at least one for the defect and one for the background"
            )
        if self.styles == "drawn" and not 0 < self.style_dim <= self.latent_dim:
            raise ValueError(
                f"style_dim is {self.style_dim}; expected 1 to {self.latent_dim}, the latent_dim: "
                "styles 'drawn' are a part of z"
            )
        if self.blend == "composed" and not self.anchor_zero:
            raise ValueError("blend 'composed' needs anchor_zero: no mask where there is no defect")

    @property
    def bottleneck_width(self) -> int:
        """Channels of the generator's bottleneck: background and defect together."""
        return self.widths(BOTTLENECK_SIZE)[-1]

    @property
    def defect_width(self) -> int:
        """C, the channels of a defect map c: the last of the bottleneck (our reading 1)."""
        share = round(self.bottleneck_width * self.defect_share)
        return share if self.split_style_defect else 0

    @property
    def defect_shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of one defect map."""
        return (self.defect_width, BOTTLENECK_SIZE, BOTTLENECK_SIZE)


@dataclass(frozen=True)
class LossWeights:
    """The weights of equation (8) and gamma of R1; all 1 in `paper` (our reading 5).

    Four terms of ours; 0, and not computed, in `paper`: `self_rec` weighs |x - G(x; E_y(x))| of
    Normal images, `local` the change where an image changed least (`losses.locality`), `area`
    what a mask of (f) covers beyond a few pixels (`losses.area`; see `Config.weights_at`), `shape`
    how far the mask of the defect that E finds is from the mask that was laid (`step.shape_term`).
    `fg_left` is the part of `fg` that G, M and E keep from the middle of a run on (1 in `paper`): a
    classifier is surest of marks that are larger and odder than real ones.
    """

    sd_rec: float = 1.0
    ds: float = 1.0
    cyc: float = 1.0
    d_rec: float = 1.0
    fg: float = 1.0
    bg: float = 1.0
    r1: float = 1.0
    self_rec: float = 0.0
    local: float = 0.0
    area: float = 0.0
    shape: float = 0.0
    fg_left: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class TrainConfig:
    """How the networks are trained."""

    iterations: int = 6000  # full length; w_ds falls linearly to 0 over it
    batch_size: int = 8  # images per step (over all processes)
    lr: float = 4e-4  # Adam's step size for G, E and D
    lr_mapping: float = 4e-5  # the same for M; a small ratio keeps two z apart
    lr_d: float = 0.0  # the same for D; 0 takes `lr`
    beta1: float = 0.0  # Adam(0, 0.99) with StarGAN v2's decay
    beta2: float = 0.99
    weight_decay: float = 1e-4
    ema_decay: float = 0.999  # of the averaged G, M and E; warmed up from 0 (`Config.ema_decay_at`)
    r1_every: int = 8  # lazy R1, applied every so many steps with its weight multiplied
    # "both" makes a latent- and a reference-guided update in every iteration (as the StarGAN v2
    # recipe), "alternate" takes them in turn, one per iteration.
    guidance: Literal["both", "alternate"] = "alternate"
    # Iterations at the beginning in which D alone learns: before it knows what a defect is, the
    # safest fake of (f) is none (ours).
    d_first: int = 0
    # D sees real and fake images moved by up to this share of the side, mirrored at the borders: it
    # is not to know the training images by heart (ours).
    d_shift: float = 0.0
    # Part of the batch that (4) looks at; its mean stays what it is, for a part of the decodings
    # (ours; 1 in `paper`).
    diversity_share: float = 1.0
    reference_steps_encoder: bool = False  # whether E also learns from reference-guided updates
    # Whether E learns there from what it reads of x and x~ alone, while its guides are held
    # constant: what D would have it read forgets where marks lie (ours).
    encoder_listens: bool = False
    # Whether (2) and (3) treat what is to be met as a constant: c~ and s~ in (2), the encoder's c
    # and c~ in (3); `detach_drawn` False takes (2) out of that: M is pulled towards what E reads
    # off its images.
    detach_targets: bool = True
    detach_drawn: bool = True
    # "latent" draws pixel noise for every z; "image" gives an image's two latents the same, so that
    # (4) rewards what z changes and not grain.
    noise_per: Literal["latent", "image"] = "image"
    # "compiled" fuses norms by `torch.compile` (see `kernels`), "eager" does not; "auto" compiles
    # where a run is long enough to earn the half minute back.
    kernels: Literal["auto", "compiled", "eager"] = "auto"
    precision: Literal["auto", "bf16", "fp32"] = "auto"  # auto: bf16 where it is native
    log_every: int = 25  # this and the next two in iterations
    sample_every: int = 500
    checkpoint_every: int = 250
    seed: int = 0  # of the initialisation, the data order and every latent

    def __post_init__(self) -> None:
        check_fields(self)


class Experiment:
    """What every configuration can: it has a `train`, becomes JSON and comes back."""

    def ema_decay_at(self: Any, step: int) -> float:
        """EMA decay at a step, warmed up so that early averages forget the random start."""
        return min(self.train.ema_decay, (1.0 + step) / (10.0 + step))

    def to_json(self: Any) -> dict[str, Any]:
        """A plain dictionary that `from_json` reads back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Inverse of `to_json`; fields that are unknown or of another type raise ValueError."""
        config: Self = typed(value, cls, "config")
        return config


@dataclass(frozen=True)
class Config(Experiment):
    """A whole experiment: networks, weights of the objective and training."""

    preset: str = "laptop"
    ablation: str = "e"
    model: ModelConfig = field(default_factory=ModelConfig)
    weights: LossWeights = field(default_factory=LossWeights)
    train: TrainConfig = field(default_factory=TrainConfig)

    def diversity_weight(self, step: int) -> float:
        """w_ds at a step: linear decay to 0 over the run (our reading 5)."""
        return self.weights.ds * max(0.0, 1.0 - step / self.train.iterations)

    def weights_at(self, step: int) -> LossWeights:
        """The other weights for G, M and E at a step (ours).

        `local` and `area` rise linearly from 0 over the run: it finds its defects first, freely,
        and is then held to their places.  `fg` falls to its `fg_left` over the first half.
        """
        share, w = min(1.0, step / self.train.iterations), self.weights
        fg = w.fg * max(w.fg_left, 1 - 2 * share * (1 - w.fg_left))
        return dataclasses.replace(w, local=w.local * share, area=w.area * share, fg=fg)


def _switches(b: int, fg: int, bg: int, d: int, anchor: int, noise: int) -> dict[str, bool]:
    names = ModelConfig.__dataclass_fields__
    first = list(names).index("split_style_defect")
    return dict(zip(list(names)[first:], map(bool, (b, fg, bg, d, anchor, noise)), strict=True))


# One row per configuration of Fig. 3; c1, c2, e1, e2 take (c) and (e) apart.
ABLATIONS: dict[str, dict[str, Any]] = {
    #              split FG BG decoders anchor noise
    "a": _switches(0, 0, 0, 0, 0, 0),
    "b": _switches(1, 0, 0, 0, 0, 0),
    "c1": _switches(1, 1, 0, 0, 0, 0),
    "c2": _switches(1, 0, 1, 0, 0, 0),
    "c": _switches(1, 1, 1, 0, 0, 0),
    "d": _switches(1, 1, 1, 1, 0, 0),
    "e1": _switches(1, 1, 1, 1, 1, 0),
    "e2": _switches(1, 1, 1, 1, 0, 1),
    "e": _switches(1, 1, 1, 1, 1, 1),
    "f": {**_switches(1, 1, 1, 1, 1, 1), "blend": "composed"},  # ours, see `composed`
}

# What (f) takes beside its blend; each value was chosen by trials (docs/trials.md).  A fake of (f)
# shares every pixel outside its mask with a real part, so the networks may be small and D bold.
_F_MODEL = {"fold": 2, "heads": "pooled", "branches": "cell", "styles": "drawn", "style_dim": 8}
_F_WEIGHTS = {"cyc": 20.0, "ds": 1.0, "r1": 0.05, "area": 8.0, "shape": 1.0, "fg_left": 0.2}
_F_WEIGHTS |= {"self_rec": 0.0, "local": 0.0}
_F_TRAIN = {"batch_size": 18, "d_first": 300, "d_shift": 0.125, "diversity_share": 0.25}
_F_TRAIN |= {"encoder_listens": True}
_F: dict[str, dict[str, Any]] = {  # preset -> what it takes of `TrainConfig`
    "tiny": {"d_first": 2, "encoder_listens": True},
    "laptop": {**_F_TRAIN, "lr_d": 1.5e-3, "iterations": 6000},
    "workstation": {**_F_TRAIN, "lr_d": 7.5e-4},
}

# What the presets for short runs have in common (docs/trials.md tells what each is for).
_SHORT_RUNS: dict[str, Any] = {"resample": "fold", "blend": "layered", "defect_up": "bilinear"}
_SHORT_RUNS |= {"places": "shifted"}
_SHORT_WEIGHTS = LossWeights(cyc=5.0, ds=0.1, self_rec=15.0, local=8.0)
_SHORT_TRAIN: dict[str, Any] = {"beta1": 0.5, "detach_drawn": False}

_PRESETS: dict[str, Config] = {
    "tiny": Config(
        model=ModelConfig(image_size=32, width=8, max_width=16, style_dim=16, hidden_dim=32),
        weights=LossWeights(cyc=5.0),
        train=TrainConfig(
            iterations=20, batch_size=4, log_every=1, sample_every=10, checkpoint_every=10
        ),
    ),
    "laptop": Config(
        model=ModelConfig(**_SHORT_RUNS),
        weights=_SHORT_WEIGHTS,
        train=TrainConfig(iterations=7000, lr_mapping=8e-5, **_SHORT_TRAIN),
    ),
    "workstation": Config(
        model=ModelConfig(
            image_size=128, width=32, max_width=256, style_dim=128, hidden_dim=256, **_SHORT_RUNS
        ),
        weights=_SHORT_WEIGHTS,
        train=TrainConfig(
            iterations=40_000, lr=2e-4, lr_mapping=2e-5, checkpoint_every=1000, **_SHORT_TRAIN
        ),
    ),
    "paper": Config(
        model=ModelConfig(
            image_size=128,
            channels=3,
            width=PAPER_PIXELS // 128,
            max_width=512,
            style_dim=512,
            hidden_dim=512,
        ),
        train=TrainConfig(
            iterations=100_000,
            lr=1e-4,
            lr_mapping=1e-6,
            r1_every=1,
            guidance="both",
            detach_targets=False,
            noise_per="latent",
            log_every=100,
            sample_every=5000,
            checkpoint_every=2500,
        ),
    ),
}
PRESETS = tuple(_PRESETS)
DEFAULT_ABLATION = {"laptop": "f", "workstation": "f"}  # the others: the paper's, "e"


def make_config(
    preset: str = "laptop",
    ablation: str | None = None,
    *,
    model: dict[str, Any] | None = None,
    weights: dict[str, Any] | None = None,
    train: dict[str, Any] | None = None,
) -> Config:
    """Build a configuration from a preset, an ablation letter and overrides.

    Args:
        preset: "tiny", "laptop", "workstation" or "paper".
        ablation: "a" to "e", "c1", "c2", "e1", "e2", or "f", ours; None takes the preset's own, "f"
            in `laptop` and `workstation`, the paper's "e" in `tiny` and `paper`.
        model: fields of `ModelConfig` to replace, by name.
        weights: the same of `LossWeights`.
        train: the same of `TrainConfig`.

    Raises:
        ValueError: an unknown preset or ablation, or sizes that do not fit together.
        TypeError: an override names no field.

    Example:
        >>> make_config("laptop", "a").model.defect_width
        0
    """
    if preset not in _PRESETS:
        raise ValueError(f"unknown preset {preset!r}; expected one of {', '.join(PRESETS)}")
    if ablation is None:
        ablation = DEFAULT_ABLATION.get(preset, "e")
    if ablation not in ABLATIONS:
        raise ValueError(f"unknown ablation {ablation!r}; expected one of {', '.join(ABLATIONS)}")
    base = _PRESETS[preset]
    ours = ablation == "f" and preset in _F
    own: Any = (_F_MODEL, _F_WEIGHTS, _F[preset]) if ours else ({}, {}, {})
    overrides = {**ABLATIONS[ablation], **own[0], **(model or {})}
    if preset == "paper" and "image_size" in overrides:
        size = max(32, overrides["image_size"])  # smaller ones are refused below
        overrides.setdefault("width", PAPER_PIXELS // size)
    return Config(
        preset,
        ablation,
        dataclasses.replace(base.model, **overrides),
        dataclasses.replace(base.weights, **(own[1] | (weights or {}))),
        dataclasses.replace(base.train, **(own[2] | (train or {}))),
    )
