"""What a person who waits for a search sees, and what it takes."""

import io

from rich.console import Console

from nas.search.limits import Limits
from nas.search.objectives import objective
from nas.search.progress import LINES, Progress
from nas.search.study import Study
from nas.settings import ChainSettings
from nas.space import build_space

SPACE = build_space(ChainSettings(widths=[4], depths=[5], strides=[1], candidates=["skip", "conv1", "conv3"]))
"""243 architectures."""


def test_without_a_terminal_the_study_is_read_once_a_line(tmp_path, monkeypatch):
    more = {"sampler": "exhaustive", "trials": 200, "batch": 50, "seed": 0, "definition": {}}
    study = Study(tmp_path, SPACE, [objective("loss")], Limits(SPACE, {}, {}), **more)
    monkeypatch.setattr("nas.search.progress.perf_counter", lambda: 1.0)
    finished, reads = study.finished, []
    monkeypatch.setattr(study, "finished", lambda: reads.append(1) or finished())
    text = io.StringIO()
    with Progress(study, 200, True, Console(file=text)) as progress:
        while not study.done():
            for trial in study.claim():
                progress.advance(study.tell(trial, {"loss": float(trial.number)}, 0.0))
    study.close()
    counts = [line.split("/")[0] for line in text.getvalue().splitlines()]
    assert counts == [str(200 * line // LINES) for line in range(1, LINES + 1)]
    assert len(reads) <= LINES + 1
