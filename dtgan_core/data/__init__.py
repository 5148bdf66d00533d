"""Data: the on-disk layout, its checks, and the in-memory store with its balanced sampler."""

from dtgan_core.data.images import ImageError, image_to_array, mask_to_array
from dtgan_core.data.layout import (
    FLIPS,
    MANIFEST_COLUMNS,
    SPLITS,
    Dataset,
    DatasetError,
    DatasetInfo,
    load_dataset,
    staged_dataset,
    write_dataset,
)
from dtgan_core.data.store import BalancedSampler, Batch, ImageStore

__all__ = [
    "FLIPS",
    "MANIFEST_COLUMNS",
    "SPLITS",
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
