"""``suite=search``: what is compared computes the same, and every row has its figures."""

import io
import json
from contextlib import nullcontext

import pytest
from rich.console import Console

from nas.bench import search, suites
from nas.settings import BenchSettings


def test_together_and_apart_find_the_same():
    calls = search.evaluation(8)
    together, apart = calls[search.TOGETHER](), calls[search.APART]()
    assert len(together) == 256
    assert together == apart
    calls = search.proxies(search.GRADIENT_PROXIES, 3)
    together, apart = calls[search.TOGETHER](), calls[search.APART]()
    assert list(together) == list(search.GRADIENT_PROXIES)
    assert together == pytest.approx(apart, rel=1e-3)


def test_an_empty_search_takes_its_time():
    assert 0 < search.empty_search("tpe", 4) < 60


def test_the_suite_measures_and_prints_every_row(monkeypatch):
    nothing = dict.fromkeys([search.APART, search.TOGETHER], lambda: None)
    monkeypatch.setattr(search, "evaluation", lambda images: nothing)
    monkeypatch.setattr(search, "race", lambda trials: nullcontext(nothing))
    monkeypatch.setattr(search, "proxies", lambda names, images: nothing)
    monkeypatch.setattr(search, "empty_search", lambda sampler, trials: search.SAMPLERS.index(sampler) + 1.0)
    told = []
    result = suites.measure(BenchSettings(suite="search", rounds=3), told.append)
    assert told == ["all subnetworks of a chain", "a race", "gradient proxies", "the search around evaluations"]
    assert json.loads(json.dumps(result)) == result
    bars = {row["what"]: row["bar"] for row in result["rows"]}
    assert list(bars.values()) == [0.45, 0.33, 0.45, None, 20, 20, 20, 20]
    assert [row["median"] for row in result["rows"][4:]] == [5, 10, 15, 20]  # s in 200 trials, so ms a trial
    assert all(0 < row["low"] <= row["median"] <= row["high"] and row["rounds"] == 3 for row in result["rows"])
    page = io.StringIO()
    Console(file=page, width=100).print(suites.table(result))
    for row in result["rows"]:
        assert f"  {row['what']} " in page.getvalue()
        assert f"{row['median']:.2f} ±" in page.getvalue()
        assert row["network"] in page.getvalue()
