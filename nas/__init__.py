"""Gated-subnetwork architecture search in PyTorch."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas.from_tensors import train_supernet

__version__ = "0.1.0"
__all__ = ["train_supernet"]


def __getattr__(name: str) -> Any:
    """What costs an import of torch is imported where it is asked for."""
    if name in __all__:
        from nas import from_tensors

        return getattr(from_tensors, name)
    raise AttributeError(f"module 'nas' has no attribute {name!r}")
