"""Data sets as uint8 tensors in memory, and batches that are a function of the step."""

from nas.data.array_file import identified
from nas.data.arrays import from_dataset, image_set
from nas.data.balance import class_weights
from nas.data.batches import Batch, Batches, Ordered, unnormalise
from nas.data.images import ImageSet, Splits, ranking_images
from nas.data.load import DataSize, expected_size, load_splits

__all__ = [
    "Batch",
    "Batches",
    "DataSize",
    "ImageSet",
    "Ordered",
    "Splits",
    "class_weights",
    "expected_size",
    "from_dataset",
    "identified",
    "image_set",
    "load_splits",
    "ranking_images",
    "unnormalise",
]
