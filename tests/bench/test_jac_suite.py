"""``suite=jac``: every variant computes what its baseline computes, every row has its figures, the bars hold."""

import io
import json
import signal
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console
from support.processes import Started
from torch import nn

from nas.bench import suites
from nas.bench.jac import cases, memory, suite
from nas.bench.jac.cases import BASELINE, OURS, Net
from nas.bench.jac.jax import Jax
from nas.cli.bench import job
from nas.cost.allocator import keep_freed_memory
from nas.jac import jacobian_det
from nas.settings import BenchSettings

ROOM = 1.25
"""What a noisy machine may take beyond a bar."""
TINY = Net(lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(27, 4)), (2, 5, 5))


@pytest.fixture(scope="module")
def jax():
    """JAX, if it is here; without it its rows are left out."""
    return Jax(threads=1)


def tiny_cases(jax):
    """A case of each kind, at sizes that take no time."""
    calls = cases.determinant(4) | jax.determinant(4)
    yield suite.Case("determinant", "mse", "batch 4", calls, {OURS: 1.2})
    calls = cases.one_sample()
    yield suite.Case("jacobian", "jacrev", "one sample", calls | jax.samples(1), {OURS: 0.2})
    yield suite.Case("jacobian", "product", "batch 3", cases.many_samples(3) | jax.samples(3), {OURS: 1.5})
    calls, before = cases.first_calls()
    yield suite.Case("first", "without a plan", "recording", calls, {OURS: 2}, before=before)
    few = cases.products(1000, 2)
    yield suite.Case("gram", "jvp(vjp)", "few", few, {OURS: 0.3}, share=10, memory="tiny", memory_bars={"mb": 32})
    calls = cases.kernel(TINY, 3) | jax.kernel(TINY, 3)
    yield suite.Case("ntk", "contraction", "full", calls, {OURS: 0.5}, memory="tiny", memory_bars={"ratio": 0.4})
    yield suite.Case("ntk", "contraction", "sum", cases.sum_kernel(TINY, 3), {OURS: 0.15}, share=10)


def values(calls):
    """What each call gives, as float64 tensors."""
    return {name: torch.from_numpy(np.asarray(call()).copy()).double() for name, call in calls.items()}


def test_every_variant_computes_the_jacobian(jax):
    found = values(cases.one_sample() | jax.samples(1))
    assert found[OURS].shape == (1, 10, 500)
    for name, value in found.items():
        assert torch.allclose(value.view(10, 500), found[OURS][0], rtol=1e-4, atol=1e-7), name
    found = values(cases.many_samples(3) | jax.samples(3))
    assert found.pop(BASELINE).shape == (30, 500)  # a bare product, of other numbers
    for name, value in found.items():
        assert torch.allclose(value, found[OURS], rtol=1e-4, atol=1e-7), name


def test_each_first_call_meets_a_new_model():
    calls, before = cases.first_calls()
    met, real = [], cases.jacobian
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cases, "jacobian", lambda model, x, **how: met.append(model) or real(model, x, **how))
        for _ in range(2):
            before()
            found = [values(calls) for _ in range(cases.TURN + 1)]
    assert len({*map(id, met[1::3])}) == 2 * len(found)
    assert all(torch.equal(value, found[0][OURS]) for one in found for value in one.values())


def test_every_variant_computes_the_kernel(jax):
    full = values(cases.kernel(TINY, 3) | jax.kernel(TINY, 3))
    for name, value in full.items():
        assert value.shape == (3, 3, 4, 4)
        assert torch.allclose(value, full[OURS], rtol=1e-4, atol=1e-4), name
    summed = values(cases.sum_kernel(TINY, 3))
    assert torch.allclose(summed.pop(BASELINE).sum((2, 3)), summed[OURS], rtol=1e-4)
    for name, value in summed.items():
        assert torch.allclose(value, summed[OURS], rtol=1e-4, atol=1e-4), name


def test_variants_compute_gram_products_and_determinants():
    found = values(cases.products(1000, 3))
    assert torch.allclose(found[BASELINE], found[OURS][0], rtol=1e-4)
    net, x = cases.square_net(), cases.normal(5, 2)
    gradients = []
    for det in (cases.layer_by_layer_det(net, x), jacobian_det(net, x)):
        gradients.append([det, *torch.autograd.grad((det - 1).square().mean(), list(net.parameters())[:-1])])
    assert all(torch.allclose(one, other, rtol=1e-4, atol=1e-6) for one, other in zip(*gradients, strict=True))


def test_the_table_has_every_figure_of_the_suite(monkeypatch, jax):
    monkeypatch.setattr(suite, "all_cases", tiny_cases)
    monkeypatch.setattr(suite, "peak_mb", lambda case, variant, threads: {OURS: 12.5, BASELINE: 50.0}[variant])
    told = []
    result = suites.measure(BenchSettings(suite="jac", rounds=3), told.append)
    assert json.loads(json.dumps(result)) == result
    assert told[:2] == ["determinant: batch 4", "jacobian: one sample"]
    rows = result["rows"]
    ours = [row for row in rows if not row["compares"]]
    names = [
        "batch 4",
        "one sample",
        "batch 3",
        "recording",
        "replayed",
        "few",
        "few, memory",
        "full",
        "full, memory",
        "sum",
    ]
    assert [row["what"] for row in ours] == names
    assert [row["what"] for row in ours if row["bar"] is None] == ["replayed"]
    assert {"layer by layer, torch.det", "NumPy by hand", "vmap(jacrev)"} <= {row["what"] for row in rows}
    assert all(row["median"] > 0 and row["taken"] > 0 and row["baseline"] > 0 for row in rows)
    assert all(row["rounds"] == 3 for row in rows)

    page = io.StringIO()
    Console(file=page, width=100).print(suites.table(result))
    lines = page.getvalue().splitlines()
    assert max(map(len, lines)) <= 100
    assert "…" not in page.getvalue()
    for row in rows:
        of_row = [line for line in lines if line[1:].strip().startswith(row["what"] + " ")]
        assert any(figures(row) <= {*line.split()} and "±" in line for line in of_row)
    close = [" ".join(line.split()) for line in lines]
    assert sum("│ 32 MB │" in line for line in close) == sum("│ 0.4 │" in line for line in close) == 1
    assert sum("│ / " in line for line in lines) == 6  # what the baseline of each section is


def test_ctrl_c_leaves_the_table_so_far(monkeypatch, jax, tmp_path):
    def stopped(jax):
        yield next(tiny_cases(jax))
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(suite, "all_cases", stopped)
    page = io.StringIO()
    with pytest.raises(SystemExit, match="130"):
        job(BenchSettings(suite="jac", rounds=3), tmp_path, Console(file=page, width=100))
    assert "measuring determinant: batch 4\n" in page.getvalue()
    assert "layer by layer" in page.getvalue()
    assert "left out: all that follows (stopped)" in page.getvalue()
    assert "the table is not whole" in page.getvalue()
    assert not list(tmp_path.iterdir())


def figures(row):
    """What must stand in a row's line."""
    bar = {f"{row['bar']:g}"} if row["bar"] else set()
    return bar | {f"{row['median']:.{suite.digits(row['median'])}f}", row["unit"]}


def test_bars_hold_the_ratio_or_what_is_taken():
    row = suite.Row("", "", 0.5, 0.4, 0.6, 3, 12.0, 24.0, "MB")
    assert row.held
    assert not replace(row, bar=0.4).held
    assert replace(row, bar=0.6).held
    assert replace(row, bar=32, bar_of="taken").held
    assert not replace(row, bar=10, bar_of="taken").held


def test_figures_keep_the_digits_that_count():
    assert [suite.digits(value) for value in (0, 12.3, 1.0, 0.12, 0.012, 0.0012)] == [2, 2, 2, 2, 3, 4]
    assert [suite.quantity(value, "ms") for value in (1730.4, 25.13, 2.513, 0.2513, 0.0251)] == [
        "1,730 ms",
        "25.1 ms",
        "2.51 ms",
        "0.251 ms",
        "0.0251 ms",
    ]


def test_memory_is_that_of_the_call_alone(tmp_path, monkeypatch):
    # Two directions and two inputs of 1,000 float32: hundreds of kilobytes at most, and no import of a library.
    monkeypatch.setattr(sys, "argv", ["memory", "tiny", OURS, "1"])
    (tmp_path / "here").mkdir()
    status, out, err = Started(memory.main, folder=tmp_path / "here").end()
    assert status == 0, err
    assert 0 <= json.loads(out)["peak_mb"] < 16


def test_a_package_that_does_not_import_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)  # as if it were not installed
    absent = Jax(threads=1)
    assert list(absent.missing) == ["jax"]
    assert absent.determinant(4) == absent.samples(1) == absent.kernel(TINY, 3) == {}


@pytest.mark.speed
def test_the_bars_hold():
    keep_freed_memory()
    result = suite.jac_suite(30, 1, lambda what: None)
    barred = [suite.Row(**row) for row in result["rows"] if row["bar"] is not None]
    missed = [row for row in barred if not replace(row, bar=ROOM * row.bar).held]
    assert not missed, "\n".join(f"{row.network}, {row.what}: {row.median:.3f}" for row in missed)
