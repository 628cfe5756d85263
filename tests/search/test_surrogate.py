"""The regression on trainings: what it predicts, how sure it is, what it draws."""

import numpy as np
import pytest
import torch

from nas.score import kendall_tau, load_table
from nas.search.propose.surrogate import WEIGHT, Features, Surrogate, one_hot
from nas.settings import CellSettings, ChainSettings
from nas.space import build_space
from tests.support.studies import BIG, SPACE

EVERYTHING = list(SPACE.enumerate())


def additive(architecture):
    return sum((i + 1) * x for i, x in enumerate(architecture))


def test_unseen_architectures_are_ranked_by_trainings():
    space = build_space(ChainSettings(widths=[8, 16]))
    table = load_table("own", space)
    drawn = torch.randperm(256, generator=torch.Generator().manual_seed(0)).tolist()
    seen, unseen = drawn[:48], drawn[48:]
    surrogate = Surrogate(space).fit([table.architectures[i] for i in seen], table.accuracies[seen, 0].tolist())
    mean, deviation = surrogate.predict([table.architectures[i] for i in unseen])
    assert kendall_tau(torch.tensor(mean), table.mean[unseen]) > 0.7
    error = np.abs(mean - table.mean[unseen].numpy())
    assert 0.5 < np.mean(error < 2 * deviation + 0.005) <= 1
    assert 0.3 < mean.min() < mean.max() < 0.6


def test_more_trainings_of_one_count_more():
    some = EVERYTHING[::3]
    values = [additive(a) + 2 * (-1) ** i for i, a in enumerate(some)]
    once, often = (Surrogate(SPACE).fit(some, values, [count] * len(some)) for count in (1, 100))
    assert np.all(often.predict(some)[1] < once.predict(some)[1])
    assert np.abs(often.predict(some)[0] - values).max() < np.abs(once.predict(some)[0] - values).max()


def test_draws_have_the_mean_and_deviation_predicted():
    surrogate = Surrogate(SPACE).fit(EVERYTHING[::4], [additive(a) for a in EVERYTHING[::4]])
    drawn = surrogate.sample(EVERYTHING, torch.Generator().manual_seed(0), draws=4000)
    mean, deviation = surrogate._fitted.predict(surrogate.features(EVERYTHING), return_std=True)
    assert drawn.mean(axis=0) == pytest.approx(mean, abs=0.06)
    assert drawn.std(axis=0) == pytest.approx(deviation, rel=0.1, abs=0.01)
    again = surrogate.sample(EVERYTHING, torch.Generator().manual_seed(0), draws=4000)
    assert np.array_equal(drawn, again)


def test_a_column_that_tells_the_truth_helps():
    wanted = {a: float(np.prod([x + 1 for x in a])) for a in BIG.sample_many(300, torch.Generator().manual_seed(1))}
    seen, unseen = list(wanted)[:12], list(wanted)[12:]
    truth = torch.tensor([wanted[a] for a in unseen])
    asked = []

    def column(architectures):
        asked.extend(architectures)
        return [np.log(np.prod([x + 1 for x in a])) for a in architectures]

    def tau(surrogate):
        mean, _ = surrogate.fit(seen, [wanted[a] for a in seen]).predict(unseen)
        return kendall_tau(torch.tensor(mean), truth)

    told = Surrogate(BIG, {"truth": [column]}, reference=list(wanted))
    assert tau(told) > tau(Surrogate(BIG)) + 0.1
    assert len(asked) == len({*asked})  # nothing is asked twice


def test_equal_values_predict_themselves():
    mean, deviation = Surrogate(SPACE).fit(EVERYTHING[:5], [0.5] * 5).predict(EVERYTHING)
    assert mean == pytest.approx(np.full(len(EVERYTHING), 0.5))
    assert np.isfinite(deviation).all()


def test_without_pairs_predictions_add_up():
    values = [additive(a) + 3 * (a[0] == a[1] == 2) for a in EVERYTHING]
    found = {}
    for pairs in (True, False):
        mean, _ = Surrogate(SPACE, pairs=pairs).fit(EVERYTHING, values).predict(EVERYTHING)
        found[pairs] = np.abs(mean - values).mean()
    assert found[True] < 0.8 * found[False]


def test_names_of_one_network_have_equal_features():
    space = build_space(CellSettings())
    dead = next(a for a in space.enumerate() if space.canonical(a) != a)
    rows = one_hot(space, [dead, space.canonical(dead)])
    assert np.array_equal(rows[0], rows[1])


def test_features_have_the_variance_promised():
    features = Features(SPACE, {"cost": [lambda found: [sum(a) for a in found], lambda found: [a[0] for a in found]]})
    variances = features(EVERYTHING).var(axis=0)
    assert variances[:-2].sum() == pytest.approx(1)
    assert variances[-2:].sum() == pytest.approx(WEIGHT**2)
