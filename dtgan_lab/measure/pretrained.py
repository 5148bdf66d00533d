"""Extractors that learned from ImageNet: torchvision's SqueezeNet and clean-fid's Inception.

Both take grey images as RGB by repetition and any size, which they bring to their own.  Their
weights are not part of the kit: they are downloaded on first use, or named by a path.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torchvision.transforms.v2.functional as tv
from cleanfid.downloads_helper import inception_url
from cleanfid.inception_torchscript import InceptionV3W
from cleanfid.resize import build_resizer
from torch import Tensor, nn
from torchvision.models import SqueezeNet1_1_Weights, squeezenet1_1

from dtgan_core.checkpoints import CheckpointError, load_module, read_tensors
from dtgan_core.files import sha256_of
from dtgan_core.synthesis import to_uint8
from dtgan_lab.measure.features import Extractor, hash_of_tensors

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, of RGB in [0, 1]
INCEPTION_NAME = "inception-2015-12-05.pt"
INCEPTION_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
UNVERIFIED = "inception-unverified"  # weights of another hash: their distance is no FID


def _rgb(x: Tensor) -> Tensor:
    return x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x


# --- SqueezeNet ----------------------------------------------------------------------------------


class SqueezeNetFeatures(Extractor):
    """SqueezeNet 1.1, its last feature maps averaged over the image (512 numbers).

    Images are squashed to 224 x 224, antialiased; nothing is cropped, since a defect may lie at the
    border.
    """

    name = "squeezenet"
    dimension = 512

    def __init__(
        self, weights: str | Path | None = None, device: torch.device | str = "cpu"
    ) -> None:
        """Load the network from safetensors in torchvision's layout (`features.*`).

        Default: torchvision's IMAGENET1K_V1, downloaded on first use and checked against the hash
        in its name. CheckpointError: the file is missing or damaged, or the download failed.
        """
        tensors = _downloaded_squeezenet() if weights is None else read_tensors(Path(weights))
        prefix = "features."
        tensors = {
            name.removeprefix(prefix): value.float()
            for name, value in tensors.items()
            if name.startswith(prefix)
        }
        network: nn.Module = squeezenet1_1(weights=None).features
        load_module(network, tensors, Path(weights or "torchvision's squeezenet1_1"))
        self.network = network.to(device).eval().requires_grad_(False)
        self.device = torch.device(device)
        self.sha256 = hash_of_tensors(tensors)

    def features(self, x: Tensor) -> Tensor:
        """(n, 1 or 3, H, W) in [-1, 1] -> (n, 512), none below 0."""
        x = _rgb(x.to(self.device, torch.float32)).add(1).div(2)  # [0, 1]
        x = tv.resize(x, [224, 224], interpolation=tv.InterpolationMode.BICUBIC, antialias=True)
        x = tv.normalize(x.clamp(0, 1), list(MEAN), list(STD))
        return self.network(x).mean(dim=(2, 3))  # (n, 512, 13, 13) -> (n, 512)


def _downloaded_squeezenet() -> dict[str, Tensor]:
    wanted = SqueezeNet1_1_Weights.IMAGENET1K_V1
    try:
        state: dict[str, Tensor] = wanted.get_state_dict(
            progress=False, check_hash=True, map_location="cpu", weights_only=True
        )
    except (OSError, RuntimeError) as error:  # no network; the hash is not that of its name
        raise CheckpointError(
            f"{wanted.url}: could not be downloaded ({error}), expected {wanted}; download it "
            "elsewhere and save its state_dict as safetensors for --weights FILE, or use "
            "--features domain, which needs no download"
        ) from error
    return state


# --- Inception -----------------------------------------------------------------------------------


class InceptionFeatures(Extractor):
    """The Inception of FID as clean-fid computes it: its network, its resizing (2048 numbers).

    Images are brought to whole grey levels first, as if they had been written to PNG files.
    TorchScript is a program: a file of another hash than the published one's is run where it is
    trusted alone, and under another name, so that no distance in its space is called FID.
    """

    name = "inception"
    dimension = 2048

    def __init__(
        self,
        weights: str | Path | None = None,
        device: torch.device | str = "cpu",
        trusted: bool = False,
    ) -> None:
        """Load `inception-2015-12-05.pt`; with `trusted` a file of another hash, too.

        Default: downloaded by clean-fid on first use and kept beside torch's own downloads.
        CheckpointError: the file is missing, not the published one or no TorchScript, or the
        download failed.
        """
        path = _downloaded_inception() if weights is None else Path(weights)
        if not path.is_file():
            raise CheckpointError(
                f"{path}: no such file; expected clean-fid's {INCEPTION_NAME}, to be had from "
                f"{inception_url}"
            )
        self.sha256 = sha256_of(path)
        if self.sha256 != INCEPTION_SHA256:
            if not trusted:
                raise CheckpointError(
                    f"{path}: found the hash {self.sha256[:12]}, expected {INCEPTION_SHA256[:12]} "
                    f"of the published file ({inception_url}); TorchScript is a program, run "
                    "another file only if you know who made it: --trust-weights"
                )
            self.name = UNVERIFIED
        self.device = torch.device(device)
        with TemporaryDirectory() as folder:  # clean-fid takes a folder and its own file name
            (Path(folder) / INCEPTION_NAME).symlink_to(path.resolve())
            try:
                network = InceptionV3W(folder, download=False, resize_inside=False)
            except (RuntimeError, AttributeError) as error:  # no TorchScript; no `layers` in it
                raise CheckpointError(
                    f"{path}: cannot be read as clean-fid's TorchScript Inception "
                    f"({str(error).strip().splitlines()[0]}); download it again from "
                    f"{inception_url}"
                ) from error
        self.network = network.to(self.device).eval().requires_grad_(False)
        self.resize = build_resizer("clean")

    def features(self, x: Tensor) -> Tensor:
        """(n, 1 or 3, H, W) in [-1, 1] -> (n, 2048)."""
        levels = to_uint8(_rgb(x))  # (n, H, W, 3)
        resized = np.stack([self.resize(image) for image in levels])  # (n, 299, 299, 3), 0 to 255
        batch = torch.from_numpy(resized).permute(0, 3, 1, 2).to(self.device)
        found: Tensor = self.network(batch)
        return found


def _downloaded_inception() -> Path:
    """The file in torch's folder of downloads; fetched whole and checked, or not at all."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        try:
            torch.hub.download_url_to_file(inception_url, str(path), INCEPTION_SHA256, False)
        except (OSError, RuntimeError) as error:  # no network; another hash
            raise CheckpointError(
                f"{inception_url}: could not be downloaded ({error}); download it elsewhere and "
                "name it with --weights FILE, or use --features domain, which needs no download"
            ) from error
    return path
