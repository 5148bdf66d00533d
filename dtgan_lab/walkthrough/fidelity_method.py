"""Rows of the fidelity table on the method: data, networks and ways of guidance (section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["paper", "our reading", "our departure"]


@dataclass(frozen=True)
class Row:
    """One statement.

    Attributes:
        source: section or equation of the paper, or "-" where nothing of the paper is meant.
        statement: what the paper says, or what is done in its silence, in our words.
        places: where the code does it, "module.name" below dtgan_core.
        kind: whose it is.
        note: how it is done, or why it is done otherwise.
        settings: fields of `Config` such as "weights.ds", with the value that preset `paper` has.
    """

    source: str
    statement: str
    places: tuple[str, ...]
    kind: Kind
    note: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


METHOD = (
    Row(
        "3",
        "Unpaired translation between defect domains; one model for all products and domains",
        ("batches.BalancedSampler", "synthesis.Synthesizer"),
        "paper",
        "source, target and references are drawn independently",
    ),
    Row(
        "3",
        "How often each product, defect and target comes",
        ("batches.BalancedSampler", "batches.stratified"),
        "our reading",
        "every (product, defect) that has images equally often, every target equally often, "
        "references of any product",
    ),
    Row(
        "-",
        "Training images are mirrored where the product allows it",
        ("batches.BalancedSampler",),
        "our departure",
        "some classes have only dozens of images; the paper does not say it",
    ),
    Row(
        "3.1",
        "The framework extends all four modules of StarGAN v2 and degrades to it without the "
        "new designs",
        ("config.ABLATIONS", "networks.Networks"),
        "paper",
        "six switches; with none, StarGAN v2 in structure, layer for layer",
    ),
    Row(
        "3.1",
        "Widths and depths of the layers (appendix D is not public)",
        ("config.ModelConfig.widths", "config.PAPER_PIXELS", "layers.ResBlock"),
        "our reading",
        "reading 1: StarGAN v2's, channels double at every halving up to a limit",
        {"model.width": 128, "model.max_width": 512, "model.hidden_dim": 512},
    ),
    Row(
        "4",
        "All images are resized to 128 x 128",
        ("batches.ImageStore.load",),
        "paper",
        "squashed; the smaller presets train on smaller images",
        {"model.image_size": 128},
    ),
    Row(
        "3.1",
        "The style s is a vector of 512",
        ("networks.Guide", "config.ModelConfig"),
        "paper",
        "shorter in the smaller presets, the same length in (a) to (e)",
        {"model.style_dim": 512},
    ),
    Row(
        "3.1",
        "The defect c is a map of H x W x C",
        ("networks.Guide", "config.ModelConfig.defect_shape"),
        "paper",
    ),
    Row(
        "3.1",
        "Size of the bottleneck, and of c",
        ("config.BOTTLENECK_SIZE",),
        "our reading",
        "reading 1: 16 x 16 whatever the image size, as StarGAN v2 at 128 pixels",
    ),
    Row(
        "3.1",
        "G's bottleneck is split depth-wise: BG first, the defect in the latter channels",
        ("networks.Generator.encode", "networks.Features"),
        "paper",
    ),
    Row(
        "3.1",
        "How many of the channels are the defect's",
        ("config.ModelConfig.defect_width",),
        "our reading",
        "reading 1: half of them",
        {"model.defect_share": 0.5},
    ),
    Row(
        "3.1",
        "c of the image is replaced by c~ of the target domain",
        ("networks.Generator.forward", "networks.Generator.render"),
        "paper",
    ),
    Row(
        "3.1",
        "The style s~ acts on the defect through AdaIN",
        ("layers.AdaIN", "networks.Generator.render"),
        "paper",
    ),
    Row(
        "3.1",
        "BG is decoded separately, without style",
        ("networks.Generator.background",),
        "paper",
        "computed once an image, however many defects are put onto it",
    ),
    Row(
        "-",
        "No norm in the background decoder",
        ("networks.Generator",),
        "our departure",
        "it would take away the lighting that (d) is said to keep; a trial did better without",
    ),
    Row(
        "3.1",
        "BG and c~ are joined by depth-wise pooling before the output",
        ("networks.Generator.render",),
        "our reading",
        "reading 2: concatenated and mixed by a 1 x 1 convolution, written as the sum of two. "
        "`pooled`: an activation and the output layer follow; `layered`: the mix is the image. In "
        "the activation the background's features showed as a lattice of dots under weak defects",
        {"model.blend": "pooled"},
    ),
    Row(
        "-",
        "How the defect decoder doubles its maps",
        ("networks.Generator", "layers.ResBlock"),
        "our reading",
        "nearest as StarGAN v2; `bilinear` is a switch: nearest doubling draws the edges of the "
        "cells of c wherever no activation hides them",
        {"model.defect_up": "nearest"},
    ),
    Row(
        "-",
        "Where a drawn defect lies",
        ("networks.DefectBranch",),
        "our departure",
        "`learned`: M has to find places in z and noise, and in short runs found few; `shifted`: "
        "the noise also moves the whole map, as real defects lie anywhere",
        {"model.places": "learned"},
    ),
    Row(
        "Fig. 3",
        "Decoding in (b) and (c), before the decoders are separate",
        ("networks.Generator.render",),
        "our reading",
        "reading 7: one decoder for [BG, c~] under AdaIN by s~",
    ),
    Row(
        "-",
        "How G halves and doubles its maps",
        ("layers.ResBlock", "networks.Generator"),
        "our departure",
        "`fold` keeps a cell's pixels as channels on the background's way: in a trial fine texture "
        "came back; `pool` is StarGAN v2's pooling and nearest doubling",
        {"model.resample": "pool"},
    ),
    Row(
        "-",
        "G starts close to an auto-encoder: quiet residual branches, faint defect",
        ("networks.Generator", "layers.initialise"),
        "our departure",
        "a short run has little time to find the background; He initialisation otherwise, and "
        "AdaIN begins near the identity",
    ),
    Row(
        "3.1",
        "M makes c~ and s~ of every domain from z; the target picks the branch",
        ("networks.MappingNetwork.forward", "networks.pick_domain"),
        "paper",
        "z is drawn from N(0, I)",
    ),
    Row(
        "3.1",
        "Layers of the branch that makes c~",
        ("networks.DefectBranch",),
        "our reading",
        "a linear layer to 4 x 4, then doubled to 16 x 16",
    ),
    Row(
        "3.1",
        "E reads c and s off a reference, a branch per domain",
        ("networks.StyleDefectEncoder.forward",),
        "paper",
    ),
    Row(
        "3.1",
        "Where in E the map c is read",
        ("networks.StyleDefectEncoder",),
        "our reading",
        "where its trunk is 16 x 16; the style comes from its end",
    ),
    Row(
        "3.1",
        "D has a real/fake branch for every defect domain",
        ("networks.Discriminator", "networks.Verdict"),
        "paper",
    ),
    Row(
        "3.1",
        "An FG defect classifier 'in the latent space'",
        ("networks.Discriminator",),
        "our reading",
        "reading 3: a head on D's deep features",
    ),
    Row(
        "3.1",
        "A BG classifier 'on the image-level'",
        ("networks.Discriminator",),
        "our reading",
        "reading 3: a small network of its own on the image",
    ),
    Row(
        "3.1",
        "Anchor domain: c of a Normal image is zero, whoever makes it",
        ("networks.MappingNetwork.forward", "networks.StyleDefectEncoder.forward"),
        "paper",
        "so M needs no branch for it",
        {"model.anchor_zero": True},
    ),
    Row(
        "3.1",
        "What a style may do where c is zero",
        ("networks.Generator.render", "step.can_vary"),
        "our reading",
        "reading 9: nothing. AdaIN of a zero map is its shift, so it is masked; (4) and the c and "
        "s terms of (2) skip Normal targets",
    ),
    Row(
        "3.1",
        "Per-pixel noise is injected into M",
        ("layers.PixelNoise", "networks.DefectBranch"),
        "paper",
        "after every convolution of the branch that makes c",
        {"model.noise": True},
    ),
    Row(
        "3.1",
        "When the pixel noise is drawn",
        ("networks.MappingNetwork.draw", "step.Latents"),
        "our reading",
        "reading 6: once a z, and reused within an iteration; its learned weight starts above "
        "zero, since a short run would not wake it",
    ),
    Row(
        "-",
        "The two latents of (4) share their pixel noise",
        ("training.Trainer.draw_latents",),
        "our departure",
        "so that (4) rewards what z changes and not grain",
        {"train.noise_per": "latent"},
    ),
    Row(
        "4.1",
        "Latent-guided: defect and style from M. Reference-guided: from one or two references",
        ("synthesis.Synthesizer.latent_guided", "synthesis.Synthesizer.reference_guided"),
        "paper",
    ),
    Row(
        "Fig. 5",
        "Random styles on one background and one reference's defect",
        ("synthesis.Synthesizer.style_sweep",),
        "paper",
    ),
)
