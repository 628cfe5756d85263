"""Parts of torch without what imports its compiler, which takes seconds, at their first use."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


def eager_optimizer(kind: type[torch.optim.Optimizer]) -> Any:
    """A class like ``kind`` whose methods lack the wrappers that import torch's compiler when they are first called."""
    names = "add_param_group", "zero_grad", "state_dict", "load_state_dict"
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in names}
    # The wrapper of step switches autograd off, too.
    return type(kind.__name__, (kind,), methods | {"step": torch.no_grad()(inspect.unwrap(kind.step))})


class EagerDispatchMode(TorchDispatchMode):
    """A dispatch mode whose first use does not import torch's compiler to keep it away from the mode."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False
