"""Networks of timm become supernets, where timm is installed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nas.checkpoint.trained import load_trained
from nas.errors import CheckpointError
from nas.settings import ModelSettings, SGDSettings, TrainRunSettings
from nas.space import build_space, extract
from nas.train import GatedOptimizer, Run, TrainStep
from tests.support.runs import tiny

pytest.importorskip("timm")
RESNET = ModelSettings(model="timm.resnet10t", gated={"layer[12].*.conv2": ["keep", "conv1", "sep3"]})
VIT = ModelSettings(
    model="timm.vit_tiny_patch16_224",
    kwargs={"img_size": 32, "depth": 2},
    gated={"blocks.*.mlp": ["keep", "none"], "blocks.*.attn": ["keep", "skip"], "head": ["keep", "low4"]},
)


@pytest.mark.parametrize(
    ("settings", "path"), [(RESNET, (1, 2)), (RESNET, (0, 1)), (VIT, (0, 1, 1, 0, 1)), (VIT, ((0, 1), 0, 0, 1, 0))]
)
def test_trained_network_of_timm_is_extracted_exactly(settings: ModelSettings, path: tuple[int, ...]) -> None:
    space, x, y = build_space(settings, 3, 32, 10), torch.randn(8, 3, 32, 32), torch.arange(8)
    supernet = space.supernet()
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    step = TrainStep(supernet, GatedOptimizer(supernet, SGDSettings()))
    for _ in range(2):
        step((x, y), (path,), 0.01)
    moved = {name for name, value in supernet.state_dict().items() if not torch.equal(value, before[name])}
    alone = extract(supernet, path).eval()
    assert moved
    assert len(moved) <= len(alone.state_dict())
    assert torch.equal(supernet.eval()(x, path), alone(x))


def test_timm_in_a_checkpoint_has_to_be_named(tmp_path: Path) -> None:
    Run(tiny(TrainRunSettings(space=RESNET)), tmp_path).save()
    with pytest.raises(CheckpointError, match=r"built by timm\.resnet10t, .*; write factory=timm\.resnet10t if you"):
        load_trained(tmp_path)
    trained = load_trained(tmp_path, factory="timm.resnet10t")
    assert trained.supernet(torch.zeros(2, 3, 16, 16), (0, 2)).shape == (2, 3)
