"""What can go wrong with an exported network."""

from __future__ import annotations

from nas.errors import NasError


class ExportError(NasError):
    """A network that cannot be exported or loaded again, or whose files do not compute what the supernet does."""
