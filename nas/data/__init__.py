"""Data sets as uint8 tensors in memory, and batches that are a function of the step."""

from nas.data.batches import Batch, Batches, ordered, unnormalise
from nas.data.images import ImageSet, Splits
from nas.data.load import load_splits

__all__ = ["Batch", "Batches", "ImageSet", "Splits", "load_splits", "ordered", "unnormalise"]
