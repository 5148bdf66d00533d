"""Data: the on-disk layout, its checks, and the in-memory store with its balanced sampler."""

from typing import TYPE_CHECKING, Any

from dtgan_core.dataset import DatasetError as DatasetError
from dtgan_core.images import ImageError as ImageError
from dtgan_core.images import image_to_array as image_to_array
from dtgan_lab.data.dataset import Dataset as Dataset
from dtgan_lab.data.dataset import DatasetInfo as DatasetInfo
from dtgan_lab.data.layout import write_dataset as write_dataset
from dtgan_lab.data.validation import load_dataset as load_dataset

if TYPE_CHECKING:
    from dtgan_core.batches import BalancedSampler as BalancedSampler
    from dtgan_core.batches import Batch as Batch
    from dtgan_core.batches import ImageStore as ImageStore


def __getattr__(name: str) -> Any:
    """Import the store at its first use: it needs torch, the scripts that write data do not."""
    if name in ("BalancedSampler", "Batch", "ImageStore"):
        from dtgan_core import batches as store

        return getattr(store, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
