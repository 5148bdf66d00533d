"""A trained (f) as three ONNX files that need no PyTorch: the page's explorer runs them.

    M.onnx   z (1, Z), y (1,), noise4 (1, 1, 4, 4) and so on  ->  c (1, C, h, w), s (1, S)
    E.onnx   x (1, ch, H, W), y (1,)                          ->  c, s
    G.onnx   x of a Normal part, c, s  ->  image (1, ch, H, W) in [-1, 1], mask (1, 1, H, W)

`model.json` beside them names products, defects and sizes.  PyTorch writes the files by following
one image through the networks, so whatever a network is built of comes along.
"""

from __future__ import annotations

import argparse
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dtgan_core import kernels
from dtgan_core.files import write_atomic, write_json_atomic
from dtgan_core.networks import MappingNetwork, noise_sizes
from dtgan_core.synthesis import Synthesizer

CASES = 100  # draws and references that both ways must paint alike
LEVELS = (127.5, 255.0)  # grey levels of 8 bits in 1: of an image in [-1, 1], of a mask in [0, 1]
OPSET = 17


class _Draw(nn.Module):
    """M for all domains, of which y takes its own: no branch is ever left without a row."""

    def __init__(self, m: MappingNetwork) -> None:
        super().__init__()
        self.m = m

    def forward(self, z: Tensor, y: Tensor, noise: list[Tensor]) -> tuple[Tensor, Tensor]:
        n = self.m.config.defects
        each = self.m(
            z.expand(n, -1), torch.arange(n), [one.expand(n, -1, -1, -1) for one in noise]
        )
        return each.c[y], each.s[y]


class _Paint(nn.Module):
    """G on a part without a defect, which is its own background."""

    def __init__(self, g: Any) -> None:
        super().__init__()
        self.g = g

    def forward(self, x: Tensor, c: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        image, mask = self.g.paint(self.g.background(self.g.encode(x), x), c, s)
        return image.clamp(-1, 1), mask


def run_export_onnx(options: argparse.Namespace) -> None:
    """`export-onnx`: write the files and say how far they are from PyTorch."""
    worst = export_onnx(Synthesizer.load(options.checkpoint), options.out)
    print(f"done: {options.out}, at most {worst:.4f} grey levels from PyTorch in {CASES} cases")


def export_onnx(synth: Synthesizer, out: Path) -> float:
    """Write E, M and G of an (f) with their description, once they paint what PyTorch paints.

    Returns the largest difference of an image or a mask from PyTorch's, in grey levels of 255.
    ValueError: another configuration, onnx or onnxruntime missing, or over one grey level.
    """
    model = synth.config.model
    if model.blend != "composed":
        raise ValueError(
            f"found configuration ({synth.config.ablation}), expected (f): the others have no "
            "masks; choose a checkpoint such as notebooks/checkpoints/composed-laptop"
        )
    try:
        import onnxruntime
    except ImportError as error:
        raise ValueError(
            "found no onnxruntime; install it: pip install 'dtgan-kit[onnx]'"
        ) from error
    z, noise = synth.M.draw(1, torch.Generator().manual_seed(0))
    x = torch.zeros(1, model.channels, model.image_size, model.image_size)
    y = synth.label(next(name for name in synth.defects if name != synth.anchor), 1)
    levels = [f"noise{side}" for side in noise_sizes()[: len(noise)]]
    guide = synth.M(z, y, noise)
    files = {
        "M": _traced(_Draw(synth.M), (z, y, noise), ["z", "y", *levels], ["c", "s"]),
        "E": _traced(synth.E, (x, y), ["x", "y"], ["c", "s"]),
        "G": _traced(_Paint(synth.G), (x, *guide), ["x", "c", "s"], ["image", "mask"]),
    }
    worst = _worst(synth, {n: onnxruntime.InferenceSession(f) for n, f in files.items()})
    if not worst <= 1:
        raise ValueError(
            f"{out}: an image or mask is {worst:.2f} grey levels from PyTorch's, expected at most "
            "1; nothing was written. Try the versions of constraints.txt"
        )
    out.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_atomic(out / f"{name}.onnx", content)
    facts = {
        "products": synth.products,
        "defects": synth.defects,
        "anchor": synth.anchor,
        "image_size": model.image_size,
        "channels": model.channels,
        "latent_dim": model.latent_dim,
        "noise": noise_sizes()[: len(noise)],
        "defect_shape": model.defect_shape,
        "weights_sha256": synth.checkpoint_hash,
        "licence": synth.card["data"].get("licence", "not given"),
    }
    write_json_atomic(out / "model.json", facts)
    return worst


def _traced(network: nn.Module, example: tuple[Any, ...], ins: list[str], outs: list[str]) -> bytes:
    """A network as ONNX, by way of one image: batches of more are not taken."""
    buffer: Any = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad(), kernels.use("plain"):
        warnings.simplefilter("ignore")  # lengths become constants, as they should
        torch.onnx.export(
            *(network, example, buffer),
            input_names=ins,
            output_names=outs,
            opset_version=OPSET,
            dynamo=False,  # the newer exporter cannot follow choices that the values make
        )
    content: bytes = buffer.getvalue()
    return content


def _worst(synth: Synthesizer, sessions: dict[str, Any]) -> float:
    """The largest difference in grey levels: random smooth parts, each with a draw that E reads."""

    def run(name: str, *inputs: Tensor) -> list[Tensor]:
        names = [one.name for one in sessions[name].get_inputs()]
        found = sessions[name].run(None, dict(zip(names, (i.numpy() for i in inputs), strict=True)))
        return [torch.from_numpy(np.asarray(one)) for one in found]

    model, paint, worst = synth.config.model, _Paint(synth.G), 0.0
    defects = [name for name in synth.defects if name != synth.anchor]
    for case in range(CASES // 2):
        generator = torch.Generator().manual_seed(case)
        coarse = torch.rand(1, model.channels, 8, 8, generator=generator) * 2 - 1
        x = nn.functional.interpolate(coarse, size=model.image_size, mode="bilinear")
        z, noise = synth.M.draw(1, generator)
        y = synth.label(defects[case % len(defects)], 1)
        with torch.inference_mode():
            drawn = paint(x, *synth.M(z, y, noise))
            read = paint(x, *synth.E(drawn[0], y))
        ours = run("G", x, *run("M", z, y, *noise))
        again = run("G", x, *run("E", ours[0], y))
        pairs = zip((*drawn, *read), (*ours, *again), LEVELS * 2, strict=True)
        worst = max(worst, *(n * float((a - b).abs().max()) for a, b, n in pairs))
    return worst
