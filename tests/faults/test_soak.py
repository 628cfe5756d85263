"""A short soak: kills at random moments of a training run and of a search change nothing."""

import importlib.util
import random
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "scripts" / "soak.py"


def load():
    spec = importlib.util.spec_from_file_location("soak", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


soak = load()


@pytest.mark.parametrize("kills", [3, pytest.param(60, marks=pytest.mark.thorough)])
def test_kills_at_random_moments_change_no_result(tmp_path, capsys, kills):
    soaks = soak.soak(tmp_path, kills=kills, what="both", commands=0, seed=random.randrange(10**6))
    assert soak.report(soaks) == 0, capsys.readouterr()
    for one in soaks:
        assert one.kills >= kills
        assert one.finished >= 2
    assert torch.get_num_threads() == 1


def test_a_difference_is_the_exit_status(tmp_path, capsys):
    found = soak.Soak("training run")
    found.compare(tmp_path / "same", [1, 2], [1, 2])
    assert soak.report([found]) == 0
    found.compare(tmp_path / "other", [1, 2], [1, 3])
    assert soak.report([found]) == 1
    assert f"soak: {tmp_path / 'other'} is not what the undisturbed one is" in capsys.readouterr().err
