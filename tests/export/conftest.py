"""Trained supernets, tiny."""

from dataclasses import replace

import pytest
import torch
from support.exports import KINDS
from support.runs import finish, tiny

from nas.checkpoint import Trained, load_trained


@pytest.fixture(scope="session")
def make_trained(tmp_path_factory):
    """The trained supernet of a run that lasts three steps; of each run once."""
    made: dict[str, Trained] = {}

    def make(settings, **train):
        key = repr((settings, train))
        if key not in made:
            folder = tmp_path_factory.mktemp("run")
            small = tiny(settings, epochs=1, batch_size=24, **train)
            with torch.random.fork_rng():
                finish(replace(small, track=replace(small.track, writers=[])), folder)
            made[key] = load_trained(folder, factory=getattr(settings.space, "factory", ""))
        return made[key]

    return make


@pytest.fixture
def trained(make_trained):
    """A chain of two slots."""
    return make_trained(KINDS["chain"][0])
