"""A network by its name, its weights out of a file, and a head for other classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from nas.errors import NasError, SettingError, did_you_mean, require
from nas.plugin import call_factory
from nas.settings import ModelSettings
from nas.space.model.once import run_once
from nas.state import load_weights, must_fit

TORCHVISION, TIMM = "torchvision.models.", "timm."
CHECKPOINT = ("state_dict", "model", "model_state_dict")
"""Where files of others keep the weights among other things."""


def build_model(settings: ModelSettings, classes: int) -> nn.Module:
    """The network that ``settings`` name, with its weights.

    A network of torchvision or timm that is to begin with random weights is made for ``classes`` classes, unless
    ``settings.kwargs`` say otherwise.

    Raises:
        SettingError: there is no such network, it cannot be made, or its weights cannot be had or do not fit.
    """
    name, kwargs = settings.model, dict(settings.kwargs)
    if ":" in name:
        model = call_factory("space.model", name, kwargs)
        if not isinstance(model, nn.Module):
            rule = f"gave a {type(model).__name__}, not a torch.nn.Module"
            raise SettingError("space.model", name, rule, "return the network")
        return _loaded(settings, model)
    if not (settings.weights or kwargs.get("weights") or kwargs.get("pretrained")):
        kwargs.setdefault("num_classes", classes)
    make = _timm(name) if name.startswith(TIMM) else _torchvision(name)
    try:
        return _loaded(settings, make(**kwargs))
    except NasError:
        raise
    except OSError as error:
        rule = f"the weights of {name} cannot be downloaded ({error})"
        raise SettingError("space.kwargs", kwargs, rule, "check the network, or give space.weights=FILE") from error
    except (TypeError, ValueError, KeyError, AssertionError, RuntimeError) as error:
        rule = f"{name} cannot be made with these ({(str(error) or repr(error)).splitlines()[0]})"
        remedy = "give the arguments that it takes"
        if kwargs.get("weights") and "num_classes" in kwargs:
            remedy = "leave num_classes out, and write space.replace_head=true for a last layer of your own classes"
        raise SettingError("space.kwargs", kwargs, rule, remedy) from error


def _torchvision(name: str) -> Callable[..., nn.Module]:
    from torchvision import models  # takes a second to import

    known, short = models.list_models(module=models), name.removeprefix(TORCHVISION)
    if short not in known:
        others = "write a name of torchvision.models, timm.NAME, or your own as in space.model=my_pkg.my_net:MyNet"
        raise SettingError("space.model", name, "is no classifier of torchvision", did_you_mean(short, known, others))
    make: Callable[..., nn.Module] = models.get_model_builder(short)
    return make


def _timm(name: str) -> Callable[..., nn.Module]:
    try:
        import timm
    except ModuleNotFoundError:
        rule, remedy = "needs timm, which is not installed", 'pip install "gated-nas[timm]"'
        raise SettingError("space.model", name, rule, remedy) from None
    short = name.removeprefix(TIMM)
    known = timm.list_models()
    require(
        short in known, "space.model", name, "is no model of timm", did_you_mean(short, known, "see timm.list_models()")
    )
    return lambda **kwargs: timm.create_model(short, **kwargs)


def _loaded(settings: ModelSettings, model: nn.Module) -> nn.Module:
    """``model`` with the weights of ``settings.weights``, if there are any."""
    if settings.weights:
        path = Path(settings.weights).expanduser()
        remedy = "take the file of this network, or the arguments that it was made with: space.kwargs.num_classes=5"
        with must_fit(SettingError, "space.weights", settings.weights, remedy):
            load_weights(model, _in_dtypes_of(model, _weights_in(path, settings.weights)))
    return model


def _in_dtypes_of(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``weights`` in the precision of ``model``: many files hold halves."""
    own = model.state_dict()
    floats = {name for name, value in own.items() if isinstance(value, Tensor) and value.is_floating_point()}
    return {k: v.to(own[k].dtype) if k in floats and v.is_floating_point() else v for k, v in weights.items()}


def _weights_in(path: Path, shown: str) -> Mapping[str, Tensor]:
    """The tensors of a safetensors file, or of one of torch's that holds nothing but tensors; no code of it is run."""
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:
        rule = "is damaged, or holds more than tensors: objects of Python, which could run code, are not loaded"
        raise SettingError("space.weights", shown, rule, "save model.state_dict()") from None
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError, KeyError) as error:
        rule = f"cannot be read as weights ({(str(error) or repr(error)).splitlines()[0]})"
        raise SettingError(
            "space.weights", shown, rule, "name a .safetensors file, or one of torch.save(state_dict)"
        ) from None
    for key in CHECKPOINT:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not any(isinstance(value, Tensor) for value in found.values()):
        raise SettingError("space.weights", shown, "holds no weights by name", "save model.state_dict()")
    if odd := next((name for name, value in found.items() if not _is_dense(value)), None):
        rule = f"holds {odd}, which is no tensor with all its values"
        raise SettingError("space.weights", shown, rule, "save model.state_dict() of an ordinary network")
    return {str(name).removeprefix("module."): value for name, value in found.items()}


def _is_dense(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not (value.is_meta or value.is_quantized)


def with_classes(model: nn.Module, classes: int, replace: bool, input_shape: tuple[int, int, int]) -> nn.Module:
    """``model`` with as many outputs as there are classes.

    Args:
        model: a classifier.
        classes: of the data.
        replace: put a new last layer in place of the one that there is; it may be of other classes, if of as many.
        input_shape: of an image, ``(C, H, W)``.

    Raises:
        SettingError: it has another number of outputs and ``replace`` is off, or no layer that gives them.
    """
    called = list[nn.Module]()
    layers = {module: name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)}
    hooks = [layer.register_forward_hook(lambda m, *_: called.append(m)) for layer in layers]
    try:
        y = run_once(model, input_shape)
    finally:
        for hook in hooks:
            hook.remove()
    found, name = y.shape[-1], type(model).__name__
    if found == classes and not replace:
        return model
    rule = f"gives {found:,} outputs, and the data has {classes:,} classes"
    require(replace, "space.model", name, rule, "write space.replace_head=true for a new last layer")
    last = called[-1] if called else None
    if isinstance(last, nn.Linear) and last.out_features == found:
        head: nn.Module = nn.Linear(last.in_features, classes, last.bias is not None)
    elif isinstance(last, nn.Conv2d) and last.out_channels == found and last.kernel_size == (1, 1):
        head = nn.Conv2d(last.in_channels, classes, 1, bias=last.bias is not None)
    else:
        rule += ", but its last layer is no Linear or 1x1 convolution with so many"
        raise SettingError("space.replace_head", "true", rule, "give the model as many outputs (space.kwargs)")
    model.set_submodule(layers[last], head.to(last.weight))
    return model
