"""What a user has written, by its name on a command line: ``package.module:name``.

Only a name that the user gives is imported: one that a file of somebody else holds could be any function of any module.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from nas.errors import SettingError


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
        rule = f"there is no module {error.name}"
        raise SettingError(key, name, rule, f"run from the folder that holds it ({here})") from None
    if not hasattr(module, attribute):
        raise SettingError(key, name, f"{module_name} has no {attribute}", "name a class or function in it")
    return getattr(module, attribute)
