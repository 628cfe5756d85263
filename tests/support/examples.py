"""Many examples inside one test."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def example(*what: object) -> Iterator[None]:
    """Name the example in whatever goes wrong inside: ``for name in TABLE: with example(name): ...``."""
    try:
        yield
    except Exception as error:
        raise AssertionError(f"example {', '.join(map(str, what))}: {error}") from error
