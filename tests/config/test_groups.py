"""Plain data, of a file that anybody may have written, become settings or one line."""

from dataclasses import asdict, fields

import pytest

from nas.errors import SettingError
from nas.settings import GROUPS, ChainSettings, CustomSettings, TrackSettings, TrainRunSettings, train_settings

NEEDED = {
    "custom": {"factory": "pkg.net:Net"},
    "folder": {"root": "here"},
    "arrays": {"root": "x.npz"},
    "fixed": {"architecture": "0"},
}


def test_settings_of_every_choice_come_back():
    for group, choices in GROUPS.items():
        for name, schema in choices.items():
            settings = TrainRunSettings(**{group: schema(**NEEDED.get(name, {}))}, seed=3)
            assert train_settings(asdict(settings)) == settings, name


def test_whole_numbers_are_numbers_and_tuples_are_lists():
    space = {"name": "chain", "widths": (4,), "depths": [2], "strides": [1]}
    found = train_settings({"space": space, "optimizer": {"name": "sgd", "lr": 1}})
    assert found.space == ChainSettings(widths=(4,), depths=[2], strides=[1])
    assert found.optimizer.lr == 1


WRONG = [
    ({"space": {"name": ["x"]}}, r"space=\['x'\]: is unknown to this version"),
    ({"space": {"name": {}}}, r"space=\{\}: is unknown"),
    ({"space": {}}, "space=None: is unknown"),
    ({"train": {"epoch": 3}}, r"train\.epoch=3: is unknown to this version"),
    ({"trian": 3}, "trian=3: is unknown to this version"),
    ({"space": "chain"}, "space=chain: must be dict"),
    ({"data": None}, "data=None: must be dict"),
    ({"train": [1]}, r"train=\[1\]: must be dict"),
    ([1], r"settings=\[1\]: must be dict"),
    ({"space": {"name": "chain", "widths": 5}}, r"space\.widths=5: must be list\[int\]; use the file as"),
    ({"space": {"name": "chain", "widths": [1.5], "depths": [1], "strides": [1]}}, r"space\.widths=\[1\.5\]: must be"),
    ({"space": {"name": "chain", "candidates": [3]}}, r"space\.candidates=\[3\]: must be list\[str\]"),
    ({"space": {"name": "cell", "cells": "a"}}, r"space\.cells=a: must be int"),
    ({"space": {"name": "cell", "cells": True}}, r"space\.cells=True: must be int"),
    ({"space": {"name": "custom", "factory": 3}}, r"space\.factory=3: must be str"),
    ({"space": {"name": "custom", "factory": "a:b", "kwargs": [1]}}, r"space\.kwargs=\[1\]: must be dict"),
    ({"train": {"epochs": None}}, r"train\.epochs=None: must be int"),
    ({"optimizer": {"name": "sgd", "lr": "1e-3"}}, r"optimizer\.lr=1e-3: must be float"),
    ({"track": {"progress": 1}}, r"track\.progress=1: must be bool"),
    ({"seed": "0"}, "seed=0: must be int"),
    ({"run": 3}, "run=3: must be str"),
    ({"seed": [[0] * 1000] * 1000}, r"seed=\[\[0, 0, .{1,200}: must be int"),
]


def test_no_file_says_who_writes():
    """An older version's switch is read; code that a file names is not called."""
    found = train_settings({"track": {"log_every": 7, "tensorboard": False, "writers": ["os:getcwd"]}})
    assert found.track == TrackSettings(log_every=7)


def test_data_of_a_wrong_type_are_one_line():
    for data, rule in WRONG:
        with pytest.raises(SettingError, match=rf"^{rule}"):
            train_settings(data)


def test_free_arguments_may_be_anything():
    space = {"name": "custom", "factory": "a:b", "kwargs": {"widths": [1, "x", None], "deep": {"a": 0.5}}}
    assert train_settings({"space": space}).space == CustomSettings(**space)
    assert {field.name for field in fields(CustomSettings)} == space.keys()
