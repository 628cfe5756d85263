"""The writer of a process that leaves writing to another one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image


class NoWriter:
    """Takes what :class:`nas.track.Writer` takes, and writes nothing."""

    tensorboard = False
    step = 0

    def scalars(self, step: int, values: Mapping[str, float]) -> None: ...

    def text(self, tag: str, markdown: str, step: int = 0) -> None: ...

    def image(self, tag: str, picture: Image.Image, step: int = 0) -> None: ...

    def histogram(self, tag: str, counts: Sequence[int], step: int) -> None: ...

    def layout(self, charts: Mapping[str, Mapping[str, str]]) -> None: ...

    def hparams(self, params: Mapping[str, Any], metrics: Sequence[str]) -> None: ...

    def flush(self) -> int:
        return 0

    def close(self) -> None: ...
