"""MLflow, through its client: ``create_run``, ``log_batch``, ``log_text``, ``log_image``, ``set_terminated``."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from PIL import Image

from nas.errors import SettingError
from nas.track.writers.base import Writer

KEPT = "mlflow.id"
"""In the run's folder: which run of the service it is."""
MOST = 100
"""Parameters that one request may carry; of metrics it may carry 1,000."""


class MlflowWriter(Writer):
    """Writes to a run of MLflow where ``MLFLOW_TRACKING_URI`` says, in ``MLFLOW_EXPERIMENT_NAME`` or ``gated-nas``.

    MLflow keeps every point that it is given. A run that goes on is the same run of MLflow again, and leaves out the
    points that this has already.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        kept, self._had = folder / KEPT, dict[str, int]()
        with _told():
            self._client = MlflowClient()
            if step and kept.is_file():
                self._id, self._resumed = kept.read_text().strip(), True
                self._client.update_run(self._id, status="RUNNING")
                return
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "gated-nas")
            found = self._client.get_experiment_by_name(name)
            experiment = found.experiment_id if found else self._client.create_experiment(name)
            run_name = f"{folder.parent.name}/{folder.name}"
            self._id, self._resumed = self._client.create_run(experiment, run_name=run_name).info.run_id, False
        kept.write_text(self._id)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        now, named = int(1000 * time.time()), {_fit(tag): value for tag, value in values.items()}
        with _told():
            new = [Metric(tag, value, now, step) for tag, value in named.items() if step > self._last(tag)]
            for first in range(0, len(new), MOST):
                self._client.log_batch(self._id, metrics=new[first : first + MOST])

    def text(self, tag: str, markdown: str, step: int = 0) -> None:
        with _told():
            self._client.log_text(self._id, markdown, f"{_fit(tag)}.md")

    def image(self, tag: str, png: bytes, step: int = 0) -> None:
        with _told():
            self._client.log_image(self._id, Image.open(BytesIO(png)), f"{_fit(tag)}/{step:08d}.png")

    def hparams(self, params: Mapping[str, Any], given: Collection[str]) -> None:
        all_of_them = [Param(_fit(name), str(value)) for name, value in params.items()]
        with _told():
            for first in range(0, len(all_of_them), MOST):
                self._client.log_batch(self._id, params=all_of_them[first : first + MOST])

    def close(self) -> None:
        with _told():
            self._client.set_terminated(self._id)

    def _last(self, tag: str) -> int:
        """The last step of which the service had a point before this process."""
        if self._resumed and tag not in self._had:
            self._had[tag] = max((point.step for point in self._client.get_metric_history(self._id, tag)), default=-1)
        return self._had.get(tag, -1)


def _fit(name: str) -> str:
    """MLflow takes no ``#``, and none of our tags has a blank."""
    return re.sub(r"[^-\w./ ]", " ", name)


@contextmanager
def _told() -> Iterator[None]:
    """One line where the service cannot be used."""
    try:
        yield
    except MlflowException as error:
        remedy = "see to MLFLOW_TRACKING_URI, and repeat the command to go on"
        raise SettingError("track.writers", "mlflow", f"cannot be written to ({error})", remedy) from None
