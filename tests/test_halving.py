"""The replays of the docs: halving finds what whole trainings find, for half of the epochs."""

import importlib.util
import random
import sys
from pathlib import Path
from statistics import fmean

import pytest

from nas.score.benchmark import TABLE

ROOT = Path(__file__).parent.parent


def load():
    spec = importlib.util.spec_from_file_location("halving", ROOT / "scripts" / "halving.py")
    module = sys.modules["halving"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


halving = load()


@pytest.fixture(scope="module")
def curves():
    """The networks of the package's table that have a learning curve, and the others."""
    return halving.read(ROOT / "docs/data/chain_curves.csv", TABLE)


def test_halving_finds_as_well_for_half_the_epochs(curves):
    known, _ = curves
    limits = halving.Limits(halving.SPACE, {}, {})
    found = {rungs: [] for rungs in ((), (1, 2, 4))}
    for seed in range(20):
        order = random.Random(seed).sample(list(known), 20)
        for rungs, results in found.items():
            results.append(halving.replay(known, rungs, halving.Given(limits, order), 20, {}))
    (_, full, _), (epochs, halved, _) = (map(fmean, zip(*results, strict=True)) for results in found.values())
    assert epochs <= 0.52 * 20 * 8
    assert halved <= full + 0.1


def test_the_training_loss_ranks_best_early(curves):
    known, _ = curves
    for epoch in (1, 2, 4):
        loss, accuracy = (
            halving.agreement(known, value)
            for value in (lambda c, e=epoch: -c.losses[e - 1], lambda c, e=epoch: c.accuracies[e - 1])
        )
        assert loss > accuracy + 0.05, epoch


def test_modelled_curves_have_the_accuracy_of_the_table(curves):
    known, others = curves
    found = halving.modelled(known, others, 0)
    assert len(found) == 256
    assert all(found[a] == known[a] for a in known)
    assert halving.agreement(found, lambda curve: curve.accuracies[-1]) == pytest.approx(
        halving.agreement(known, lambda curve: curve.accuracies[-1]), abs=0.1
    )
