"""The checkpoint file: what goes in comes out bit for bit, and others can read it."""

import json

import pytest
import torch
from safetensors import safe_open
from support.runs import assert_same
from torch import nn

from nas.checkpoint import KEPT, check_storable, load, load_newest, save, saved
from nas.errors import CheckpointError
from nas.sealed import DTYPES
from nas.state import load_weights

PLAIN = {"settings": {"a": [1, 2.5e-300, True, None, 'ä"\n', {}]}, "initial": "", "metrics_bytes": 1 << 60}
PARTS = {"optimizer": {}, "gate": {}, "track": {"window": [0.1 + 0.2, -(2.0**-1074)]}, **PLAIN}


class Network(nn.Module):
    """Parameters, buffers and state of every kind."""

    def __init__(self):
        super().__init__()
        self.first, self.tied = nn.Linear(3, 3), nn.Linear(3, 3)
        self.tied.weight = self.first.weight
        self.conv = nn.Conv2d(2, 4, 3).to(memory_format=torch.channels_last)
        self.norm = nn.BatchNorm1d(3)
        self.double, self.half = nn.Linear(1, 2, dtype=torch.float64), nn.Linear(2, 1, dtype=torch.bfloat16)
        self.waves = nn.Parameter(torch.randn(2, dtype=torch.complex128).conj())
        for number, dtype in enumerate(DTYPES):
            self.register_buffer(f"buffer{number}", torch.arange(4).to(dtype))
        self.register_buffer("scalar", torch.tensor(7))
        self.register_buffer("empty", torch.zeros(0, 3))
        self.register_buffer("strided", torch.randn(4, 6)[::2, ::3])
        self.register_buffer("part", self.strided[:1])
        self.notes = {"seen": [1, 2.5, "three"]}

    def get_extra_state(self):
        return self.notes

    def set_extra_state(self, state):
        self.notes = state


class Versioned(nn.Linear):
    """A layer that has changed what it keeps, as torch's own have."""

    _version = 7

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *rest):
        self.loaded = local_metadata.get("version")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


def test_every_state_comes_back_bit_for_bit(tmp_path):
    network = Network()
    moments = {"exp_avg/first.weight": torch.randn(3, 3), "step/first.weight": torch.tensor(3.0)}
    gate = {"expanded": torch.randn(1).expand(5), "learned": True}
    state = {**PARTS, "model": network.state_dict(), "optimizer": moments, "gate": gate}
    found = load(save(tmp_path, 11, state))
    assert_same({name: found[name] for name in state}, {**state, "model": dict(state["model"])})
    for name, value in state["model"].items():
        assert not isinstance(value, torch.Tensor) or found["model"][name].dtype == value.dtype, name
    other = Network()
    other.notes = None
    load_weights(other, found["model"])
    assert_same(other.state_dict(), network.state_dict())
    assert other.first.weight is other.tied.weight
    assert other.conv.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_module_learns_which_version_wrote_its_state(tmp_path):
    layer = Versioned(2, 2)
    load_weights(layer, load(save(tmp_path, 1, {**PARTS, "model": Versioned(2, 2).state_dict()}))["model"])
    assert layer.loaded == 7


def test_others_read_it_and_it_is_reproducible(tmp_path):
    state = {**PARTS, "model": {"w": torch.arange(6.0).view(2, 3), "b": torch.ones(3, dtype=torch.bool)}}
    path = save(tmp_path, 3, state)
    with safe_open(path, "pt") as file:
        assert set(file.keys()) == {"model/w", "model/b"}
        assert torch.equal(file.get_tensor("model/w"), state["model"]["w"])
        assert json.loads(file.metadata()["settings"]) == PLAIN["settings"]
        assert json.loads(file.metadata()["step"]) == 3
    assert save(tmp_path, 4, {**state, "step": 3}).read_bytes() == path.read_bytes()


def test_what_cannot_be_held_is_refused_before_writing(tmp_path):
    wrong = {"object": object(), "tuple": (1,), "numbers for names": {1: 2}, "nan": float("nan"), "deep": []}
    for _ in range(100_000):
        wrong["deep"] = [wrong["deep"]]
    wrong |= {"sparse": torch.eye(2).to_sparse(), "tensors inside": {"a": torch.ones(1)}}
    for name, value in wrong.items():
        with pytest.raises(CheckpointError, match=f"checkpoint=model/{name}: cannot hold"):
            check_storable("model", {name: value})
        with pytest.raises(CheckpointError, match="cannot hold"):
            save(tmp_path, 1, {**PARTS, "model": {name: value}})
    with pytest.raises(CheckpointError, match="cannot hold"):
        save(tmp_path, 1, {**PARTS, "model": {}, "extra": object()})
    assert not list(tmp_path.iterdir())


def test_a_header_too_long_for_safetensors_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("nas.sealed.LONGEST_HEADER", 1000)
    with pytest.raises(CheckpointError, match=r"would have .* bytes beside the tensors.*; lower track\.log_every"):
        save(tmp_path, 1, {**PARTS, "model": {}, "extra": "x" * 1000})


def test_the_last_two_stay_and_unfinished_ones_go(tmp_path):
    (tmp_path / "step_000000001.safetensors.unfinished").touch()
    for step in (2, 10, 9):
        save(tmp_path, step, {**PARTS, "model": {}})
    assert [path.name for path in saved(tmp_path)] == ["step_000000010.safetensors", "step_000000009.safetensors"]
    assert len(list(tmp_path.iterdir())) == KEPT
    assert load_newest(tmp_path)["step"] == 10


def test_older_formats_are_refused_and_begin_no_run(tmp_path):
    old = tmp_path / "step_000000007.pt"
    torch.save({"format": 1}, old)
    for read in (saved, load_newest):
        with pytest.raises(CheckpointError, match=rf"run={tmp_path}: its checkpoints are of an older .*{old.name}"):
            read(tmp_path)
    with pytest.raises(CheckpointError, match=rf"checkpoint={old}: is of an older version .*train again"):
        load(old)
    save(tmp_path, 8, {**PARTS, "model": {}})
    assert load_newest(tmp_path)["step"] == 8
