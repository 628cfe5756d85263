"""What a person who waits for a search sees, and what it takes."""

import io

from rich.console import Console

from nas.search.objectives import Limits, objective
from nas.search.proposers import build_proposer
from nas.search.run import LINES, Progress
from nas.search.study import Study
from nas.settings import ChainSettings
from nas.space import build_space

SPACE = build_space(ChainSettings(widths=[4], depths=[5], strides=[1], candidates=["skip", "conv1", "conv3"]))
"""243 architectures."""


def test_without_a_terminal_there_are_ten_lines(tmp_path):
    limits, objectives = Limits(SPACE, {}, {}), [objective("loss")]
    proposer = build_proposer("exhaustive", SPACE, limits, 0, objectives)
    study = Study(tmp_path, proposer, objectives, limits, trials=200, batch=50, definition={})
    text = io.StringIO()
    with Progress(study, 200, True, Console(file=text)) as progress:
        while not study.done():
            for trial in study.claim():
                study.tell(trial, {"loss": float(trial.number)}, 0.0)
                progress.advance()
    study.close()
    lines = text.getvalue().splitlines()
    assert [line.split("/")[0] for line in lines] == [str(200 * line // LINES) for line in range(1, LINES + 1)]
    assert all("best loss 0.0000" in line for line in lines)
