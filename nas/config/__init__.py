"""From the files in ``conf/`` and a command line to settings."""

from nas.config.compose import conf_folder, register, settings_from, yaml_of
from nas.config.explain import explain, explain_flags, is_sweep, plain_keys
from nas.config.given import given

__all__ = [
    "conf_folder",
    "explain",
    "explain_flags",
    "given",
    "is_sweep",
    "plain_keys",
    "register",
    "settings_from",
    "yaml_of",
]
