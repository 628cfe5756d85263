"""Tensors that replace others: all of them, or none and one line."""

import pytest
import torch
from torch import nn

from nas.errors import CheckpointError, SettingError
from nas.state import load_weights, must_fit, restore


def test_restore_copies_all_or_nothing():
    own = {"a": torch.zeros(2), "b": torch.zeros(3, dtype=torch.float64), "step/b": torch.ones(())}
    good = {"a": torch.ones(2), "b": torch.ones(3, dtype=torch.float64), "step/b": torch.zeros(())}
    wrong = {
        "b is missing": {name: value for name, value in good.items() if name != "b"},
        "c is unknown": {**good, "c": torch.ones(1)},
        r"b is \(1,\) and not \(3,\)": {**good, "b": torch.ones(1, dtype=torch.float64)},
        r"b is str and not \(3,\)": {**good, "b": "text"},
        "b is torch.float32 and not torch.float64": {**good, "b": torch.ones(3)},
        "b is not finite": {**good, "b": torch.full((3,), torch.inf, dtype=torch.float64)},
        "step/b is negative": {**good, "step/b": -torch.ones(())},
    }
    for words, found in wrong.items():
        with pytest.raises(ValueError, match=words):
            restore(own, found)
        assert not own["a"].any(), words
    restore(own, good)
    assert all(torch.equal(own[name], good[name]) for name in good)


def test_weights_of_another_network_are_one_line():
    def network(width=3, **how):
        return nn.Sequential(nn.Linear(2, width, **how), nn.BatchNorm1d(width))

    good = network().state_dict()
    wrong = {
        r"Missing key.*0\.bias": {name: value for name, value in good.items() if name != "0.bias"},
        r"Unexpected key.*more": {**good, "more": torch.ones(1)},
        r"size mismatch for 0\.weight.*\[4, 2\]": network(4).state_dict(),
        r"0\.weight is torch.float64 and not torch.float32": network(dtype=torch.float64).state_dict(),
        r"1\.running_var is not finite": {**good, "1.running_var": torch.full((3,), torch.nan)},
        r"0\.bias": {**good, "0.bias": "text"},
    }
    for words, weights in wrong.items():
        for device in ("cpu", "meta"):
            with torch.device(device), pytest.raises(ValueError, match=words) as caught:
                load_weights(network(), weights)
            assert len(str(caught.value)) < 400
    loaded = network()
    load_weights(loaded, good)
    assert all(torch.equal(value, good[name]) for name, value in loaded.state_dict().items())


def test_misfits_name_their_remedy_and_other_errors_pass():
    rule = r"run=here: its checkpoint does not fit the network \(x\); go"
    with pytest.raises(CheckpointError, match=rule), must_fit(CheckpointError, "run", "here", "go", "its checkpoint "):
        raise ValueError("x")
    with pytest.raises(SettingError), must_fit(CheckpointError, "run", "here", "go"):
        raise SettingError("a", "b", "c", "d")
