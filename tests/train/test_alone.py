"""A subnetwork trained alone without files is what a run of the same settings gives."""

from dataclasses import replace

import pytest
from support.runs import finish, tiny

from nas.data import load_splits
from nas.settings import EvaluateSettings, FixedGateSettings
from nas.space import build_space
from nas.train import train_from_scratch


@pytest.mark.parametrize("more", [{}, {"ema_decay": 0.9, "clip_norm": 1.0}, {"channels_last": True}])
def test_it_equals_a_run_with_a_fixed_gate(more, tmp_path):
    settings = replace(
        tiny(**more),
        gate=FixedGateSettings(architecture="2-1"),
        evaluate=EvaluateSettings(recalibrate=False, batch_size=256),
    )
    splits = load_splits(settings.data, settings.seed)
    space = build_space(settings.space, *splits.sizes)
    alone = train_from_scratch(settings, space, splits, (2, 1))
    (of_run,) = finish(settings, tmp_path).evaluate("test", [(2, 1)])
    assert alone == of_run
