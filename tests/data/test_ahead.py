"""The next batch is made by another thread while a step computes, and is the same."""

import threading
from dataclasses import replace

import pytest
import torch

from nas.data import Ahead, Batches, load_splits
from nas.errors import SettingError
from nas.settings import SyntheticSettings, TrainRunSettings

DATA = SyntheticSettings(size=100, image_size=16, mixup=0.2, cutout=4, augment=["trivial"])


def batches(**data):
    settings = TrainRunSettings(data=replace(DATA, **data))
    settings = replace(settings, train=replace(settings.train, batch_size=8))
    return Batches.of(load_splits(settings.data, 0), settings)


@pytest.fixture
def made(monkeypatch):
    """The steps whose batches were made, with the name of the thread."""
    steps, make = [], Batches.batch

    def note(self, step):
        steps.append((step, threading.current_thread().name))
        return make(self, step)

    monkeypatch.setattr(Batches, "batch", note)
    return steps


def test_batches_made_ahead_are_the_same(made):
    plain, steps = batches(), [0, 1, 2, 3, 9, 10, 11, 11, 2, 29]
    with Ahead(batches(), end=30) as ahead:
        for step in steps:
            for ours, theirs in zip(ahead.batch(step), plain.batch(step), strict=True):
                assert torch.equal(ours, theirs)
    by_others = {step for step, name in made if name != "MainThread"}
    assert by_others == {1, 2, 3, 4, 10, 11, 12}  # and none behind the end
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


def own(images, draws):
    return images


def test_what_draws_from_the_global_generator_is_not_made_ahead(made):
    torch.set_num_threads(1)
    with Ahead(batches(augment=[f"{__name__}:own"], mixup=0.0), end=30) as ahead:
        ahead.batch(0)
    assert made == [(0, "MainThread")]


def test_an_error_comes_with_the_batch_that_has_it(monkeypatch):
    with Ahead(batches(), end=30) as ahead:
        ahead.batch(0)
        monkeypatch.setattr(Batches, "_batch", lambda *_: (_ for _ in ()).throw(SettingError("data", "x", "is", "not")))
        ahead.batch(1)
        with pytest.raises(SettingError):
            ahead.batch(2)
