"""The config files, as a package so that a wheel can carry them as ``nas.conf``."""
