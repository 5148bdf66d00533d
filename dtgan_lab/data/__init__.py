"""Data: the on-disk layout, its checks, and the in-memory store with its balanced sampler."""

from typing import TYPE_CHECKING, Any

from dtgan_core.dataset import DatasetError
from dtgan_core.images import ImageError, image_to_array
from dtgan_lab.data.dataset import MANIFEST_COLUMNS, Dataset, DatasetInfo, mask_to_array
from dtgan_lab.data.layout import staged_dataset, write_dataset
from dtgan_lab.data.validation import load_dataset

if TYPE_CHECKING:
    from dtgan_core.batches import BalancedSampler, Batch, ImageStore

__all__ = [
    "MANIFEST_COLUMNS",
    "BalancedSampler",
    "Batch",
    "Dataset",
    "DatasetError",
    "DatasetInfo",
    "ImageError",
    "ImageStore",
    "image_to_array",
    "load_dataset",
    "mask_to_array",
    "staged_dataset",
    "write_dataset",
]


def __getattr__(name: str) -> Any:
    """Import the store at its first use: it needs torch, the scripts that write data do not."""
    if name in ("BalancedSampler", "Batch", "ImageStore"):
        from dtgan_core import batches as store

        return getattr(store, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
