"""Data sets as rows of uint8 tensors, in memory or mapped from a file, and batches that are a function of the step."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas.data.ahead import Ahead
    from nas.data.balance import class_weights
    from nas.data.batches import Batches
    from nas.data.images import ImageSet, Splits, ranking_images
    from nas.data.load import DataSize, expected_size, load_splits
    from nas.data.ordered import Batch, Ordered, unnormalise
    from nas.data.read.array_file import identified
    from nas.data.read.arrays import from_dataset, image_set

__all__ = [
    "Ahead",
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


def __getattr__(name: str) -> Any:
    """A process that decodes images does without torch, whose import takes longer than many images."""
    if name in __all__:
        from nas.data import ahead, balance, batches, images, load, ordered
        from nas.data.read import array_file, arrays

        modules = ahead, array_file, arrays, balance, batches, images, load, ordered
        return next(getattr(module, name) for module in modules if hasattr(module, name))
    raise AttributeError(f"module 'nas.data' has no attribute {name!r}")
