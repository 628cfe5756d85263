"""The time left that a bar shows, on a clock that only moves where the test says so."""

from dataclasses import replace

import pytest
import torch
from support.runs import tiny

from nas import checkpoint
from nas.train import EvalResult, Run, StepResult, fit, make_report
from nas.train.schedule import Every


@pytest.mark.parametrize(("epochs", "interim"), [(20, 0), (20, 6), (5, 6)])  # of 5 the first comes after the tenth
def test_time_left_is_right_after_a_tenth(tmp_path, monkeypatch, epochs, interim):
    now, said = [0.0], {}
    monkeypatch.setattr("nas.track.left.perf_counter", lambda: now[0])

    def takes(seconds, result=None):
        now[0] += seconds
        return result

    settings = tiny(epochs=epochs)
    run = Run(replace(settings, evaluate=replace(settings.evaluate, interim_images=interim)), tmp_path)
    predicted = torch.zeros_like(run.splits.test.labels)
    results = [EvalResult(path, 0.5, 1.0, 12, predicted) for path in ((0, 1), (1, 0))]
    found = StepResult(0, 0.1, [(0, 0)], [(0, 0)], torch.tensor([1.0, 4.0]), torch.tensor([1.0, 4.0]), [0.0, 1.0])
    monkeypatch.setattr(run, "train_step", lambda *_: takes(1.0, found))
    # As long as it should take beside a step of 8 images, and the report in proportion to its images.
    forward = 1 / 3 / 8 * 3 * 1.1
    images = {"val": len(run.splits.val) + 16, "test": len(run.splits.test) + 16}
    fewer = {"val": interim + interim // 2} if interim else images
    monkeypatch.setattr(
        run,
        "evaluate",
        lambda split, _, interim=False: takes(forward * (fewer if interim else images)[split], results),
    )
    monkeypatch.setattr(checkpoint, "save", lambda *_: takes(0.3))
    monkeypatch.setattr("nas.track.tracker.draw_run", lambda *_: takes(0.8, {}))
    monkeypatch.setattr(
        run.progress, "advance", lambda step, *_: said.update({step: (now[0], run.progress.left.seconds(step))})
    )
    fit(run)
    make_report(run)
    run.tracker.writer.close()
    for step in (run.total_steps // 10, run.total_steps // 3, run.total_steps - 1):
        then, left = said[step]
        assert left == pytest.approx(now[0] - then, rel=0.2), step
    assert now[0] > 1.15 * run.total_steps, "the steps alone say too little"


def test_what_is_left_is_counted():
    for every in (Every(4, 10), Every(5, 10), Every(20, 10)):
        for step in range(11):
            assert every.left(step) == sum(every(later) for later in range(step + 1, 11)), (every, step)
