"""``suite=fast``: all ways compute alike, and every row has its figures."""

import io
import json

import pytest
from rich.console import Console

from nas.bench import fast, suites
from nas.settings import BenchSettings, ChainSettings, Way

TINY = fast.Network(ChainSettings(widths=[4], depths=[3], strides=[1]), images=4, side=8)
EAGER = {name: way for name, way in fast.WAYS.items() if way.compile == "none"}


def test_all_ways_step_alike_alone_and_gated():
    steps = fast.steps_of(TINY, EAGER | fast.SLOW)
    assert len(steps) == 6
    first, second = ([float(getattr(loss, "loss", loss)) for loss in (step() for step in steps.values())] for _ in "ab")
    for losses in (first, second):  # of two paths
        assert losses == pytest.approx([losses[0]] * 6, rel=0.02)
        assert losses[:4] == pytest.approx([losses[0]] * 4, rel=1e-5)
    assert first[0] != second[0]


def test_paths_have_no_branch_in_common_and_all_have_each():
    two, every = TINY.paths(2), TINY.paths(4)
    assert all(a != b for a, b in zip(*two, strict=True))
    assert [sorted(choices) for choices in zip(*every, strict=True)] == [[0, 1, 2, 3]] * 3


def test_the_fast_suite_measures_and_prints_every_row(monkeypatch):
    monkeypatch.setattr(fast, "WAYS", EAGER)
    monkeypatch.setattr(fast, "NETWORKS", {"tiny": TINY})
    monkeypatch.setattr(fast, "compiling", lambda name, settings: [])
    times = {key: [1.0 if key[0] == fast.EAGER else 0.5] * 3 for key in fast.steps_of(TINY, EAGER | fast.SLOW)}
    times |= {(f"eager, {fast.os.cpu_count()} threads", side): [2.0] * 3 for side in (fast.ALONE, fast.GATED)}
    monkeypatch.setattr(fast, "times_in_turn", lambda steps, rounds, calls: {key: times[key] for key in steps})
    monkeypatch.setattr(fast, "fastest", lambda *_: (Way(), []))
    result = suites.measure(BenchSettings(suite="fast", rounds=3), lambda what: None)
    assert json.loads(json.dumps(result)) == result
    medians = {row["what"]: [ratio["median"] for ratio in row["ratios"].values()] for row in result["rows"]}
    assert medians["channels_last"] == [0.5, 0.5, 1]
    assert medians["train.fast=auto / the fastest way by hand"] == [2]  # it took eager, twice as slow
    assert medians["both the fastest way"] == [1]
    page = io.StringIO()
    Console(file=page, width=100).print(suites.table(result))
    assert all(f"  {row['what']} " in page.getvalue() for row in result["rows"])
