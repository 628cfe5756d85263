"""What a user has written, by its name on a command line: ``package.module:name``.

Only a name that the user gives is imported: one that a file of somebody else holds could be any function of any module.
What a user's own code raises passes through, with its frames.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from nas.errors import SettingError, did_you_mean


def load_named(key: str, name: str) -> Any:
    """What ``package.module:name`` names; the working folder is looked in too.

    Args:
        key: the setting that holds the name, for messages.
        name: of the form that :func:`nas.settings.rules.is_import_name` asks for.

    Raises:
        SettingError: there is no such module, or nothing of that name in it.
    """
    module_name, _, attribute = name.partition(":")
    # A console command does not look for modules where it is called; a user's own usually lie there.
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and not f"{module_name}.".startswith(f"{error.name}."):
            rule = f"{module_name} imports {error.name}, which there is not"
            raise SettingError(key, name, rule, f"install it, or mend {module_name}") from None
        rule = f"there is no module {error.name}"
        raise SettingError(key, name, rule, f"run from the folder that holds it ({here})") from None
    if not hasattr(module, attribute):
        remedy = did_you_mean(attribute, vars(module), "name a class or function in it")
        raise SettingError(key, name, f"{module_name} has no {attribute}", remedy)
    return getattr(module, attribute)


def load_function(key: str, name: str, *takes: str) -> Callable[..., Any]:
    """What ``name`` names, if it can be called with so many arguments.

    Args:
        key: the setting that holds the name, for messages.
        name: ``package.module:name``.
        takes: what the arguments are, in words.

    Raises:
        SettingError: it cannot be imported, or not be called like that.
    """
    function = load_named(key, name)
    if why := _misfit(function, takes, {}):
        rule = f"cannot be called with {', '.join(takes)} ({why})"
        raise SettingError(key, name, rule, "take these arguments")
    return function


def call_factory(key: str, name: str, kwargs: Mapping[str, Any], *args: object, **more: object) -> Any:
    """What the function or class that ``name`` names gives for ``args``, ``more`` and the user's ``kwargs``.

    Args:
        key: the setting that holds the name, as in ``space.factory``, for messages; ``space.kwargs`` stands beside it.
        name: ``package.module:name``.

    Raises:
        SettingError: it cannot be imported, or not be called with these.
    """
    factory = load_named(key, name)
    if not callable(factory):
        rule = f"is of the type {type(factory).__name__}, which cannot be called"
        raise SettingError(key, name, rule, "name a class or a function")
    twice = next((f"{key} is given beside them" for key in kwargs if key in more), "")
    if why := twice or _misfit(factory, args, {**more, **kwargs}):
        rule = f"{name} cannot be called with these ({why})"
        raise SettingError(f"{key.partition('.')[0]}.kwargs", dict(kwargs), rule, "give the arguments that it takes")
    return factory(*args, **more, **kwargs)


def _misfit(function: Any, args: Iterable[object], kwargs: Mapping[str, object]) -> str:
    """Why a call is none that ``function`` takes; empty if it is. What the call itself raises is the user's to see."""
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError as error:
        return str(error)
    except ValueError:  # it is written in C, and says nothing about its arguments
        return ""
    return ""
