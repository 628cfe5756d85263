"""From images in memory to a trained supernet in one call, and the notebooks in examples/."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from support.archives import pixels_of
from support.plain_nets import PlainNet
from support.runs import CHAIN, assert_same
from torch import nn
from torchvision.transforms.functional import to_pil_image

import nas
from nas import from_tensors
from nas.checkpoint import Initial, load_trained
from nas.data import image_set
from nas.errors import CheckpointError, DataError, ExportError, SettingError, SpaceError
from nas.export import export, load
from nas.nn import GatedSum, conv_bn_relu
from nas.search import SearchTarget
from nas.space import ModuleSpace, gate_modules

EXAMPLES = Path(__file__).parents[1] / "examples"
IMAGES = torch.randint(256, (60, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
LABELS = torch.arange(60) % 3
SHORT = {"epochs": 1, "batch_size": 8, "val_fraction": 0.2, "test_fraction": 0.2, "progress": False}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix, self.head = GatedSum([conv_bn_relu(3, 4, 1), conv_bn_relu(3, 4, 3)]), nn.Linear(4, 3)

    def forward(self, x, architecture):
        return self.head(self.mix(x, architecture[0]).mean((2, 3)))


def weights(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def test_a_module_is_trained_as_a_copy_also_in_a_thread():
    net = Net()
    before = weights(net)
    trained = nas.train_supernet(net, IMAGES, LABELS, **SHORT)
    assert_same(weights(net), before)
    assert not torch.equal(trained.supernet.head.weight, net.head.weight)
    with ThreadPoolExecutor(1) as other:
        again = other.submit(nas.train_supernet, net, IMAGES, LABELS, **SHORT).result()
    assert_same(weights(again.supernet), weights(trained.supernet))


def test_the_subnetwork_takes_raw_images_and_reaches_the_reports_accuracy():
    trained = nas.train_supernet(Net, IMAGES, LABELS, gate="learned", lr=0.1, flip=True, **SHORT)
    test, row = trained.splits.test, trained.report.subnetworks[0]
    with torch.no_grad():
        right = trained.subnetwork()(pixels_of(test)).argmax(1) == test.labels
    assert trained.space.encode(trained.best) == row.architecture
    assert right.float().mean().item() == pytest.approx(row.test_accuracy)
    assert trained.evaluate(split="test").accuracy == pytest.approx(row.test_accuracy)
    assert len(trained.splits.val) == len(test) - 3 == 9  # a fifth of the rest, a fifth of all


def test_a_result_is_searched_and_exported(tmp_path):
    trained = nas.train_supernet(CHAIN, (IMAGES, LABELS), test=(IMAGES[:9], LABELS[:9]), **SHORT)
    assert len(trained.splits.test) == 9
    found = trained.search(objectives=["accuracy", "flops"], sampler="exhaustive", progress=False)
    assert len(found.trials) == trained.space.size
    assert found.best.values["accuracy"] == trained.evaluate(found.best.architecture).accuracy
    export(trained, found.best.architecture, tmp_path / "out", program=False)
    assert load(tmp_path / "out") is not None
    shown = [trained, trained.run, trained.run.gate, trained.space, trained.splits, trained.report, found]
    shown += [Initial({"w": IMAGES}), SearchTarget(trained.space, CHAIN, trained.settings.data, trained.splits, 0)]
    for one in shown:
        assert len(repr(one)) < 300, repr(one)
        assert "tensor(" not in repr(one)


def test_a_network_gated_in_a_program_is_exported(tmp_path):
    def made():
        return gate_modules(PlainNet(3), {"blocks.*.second": ["keep", "conv1"]}, input_shape=(3, 8, 8))

    trained = nas.train_supernet(made(), IMAGES, LABELS, **SHORT)
    exported = export(trained, (1, 0), str(tmp_path / "out"))
    assert {one.file: one.same_class for one in exported.comparisons} == {"weights.safetensors": 12, "network.pt2": 12}
    assert "factory=make_supernet" in (tmp_path / "out" / "README.md").read_text()
    x = torch.rand(2, 3, 8, 8)
    assert load(tmp_path / "out", made)(x).shape == (2, 3)
    with pytest.raises(ExportError, match=r"was made in a program .*; write load\(folder, factory=MAKE\)"):
        load(tmp_path / "out")


def test_a_folder_goes_on_with_the_same_images_alone(tmp_path):
    whole = nas.train_supernet(Net, IMAGES, LABELS, folder=tmp_path / "run", **SHORT)
    again = nas.train_supernet(Net, IMAGES, LABELS, folder=tmp_path / "run", **SHORT)
    assert (again.run.step, again.report) == (whole.run.step, whole.report)
    assert_same(weights(again.supernet), weights(whole.supernet))
    with pytest.raises(CheckpointError, match=r"begun with other settings \(data\.digest"):
        nas.train_supernet(Net, 255 - IMAGES, LABELS, folder=tmp_path / "run", **SHORT)
    with pytest.raises(DataError, match=r"in the memory of a program; give them to nas\.train_supernet again"):
        load_trained(tmp_path / "run", factory=f"{Net.__module__}:Net")


def test_all_forms_of_images_are_one():
    expected = image_set(IMAGES, LABELS)
    pairs = list(zip(IMAGES, LABELS.tolist(), strict=True))
    for found in (
        image_set(IMAGES / 255, LABELS.int()),
        image_set(IMAGES.numpy(), np.asarray(LABELS)),
        image_set((IMAGES, LABELS)),
        image_set(pairs),
        image_set([(to_pil_image(image), label) for image, label in pairs]),
    ):
        assert torch.equal(pixels_of(found), pixels_of(expected))
        assert torch.equal(found.labels, expected.labels)
        assert found.classes == ("0", "1", "2")


def test_what_cannot_be_trained_on_is_one_line():
    with pytest.raises(DataError, match="images=nan to nan: floats must be from 0 to 1"):
        nas.train_supernet(Net, IMAGES * float("nan"), LABELS)
    with pytest.raises(SettingError, match="gate=unfair: must be one of fixed, uniform, fair, learned"):
        nas.train_supernet(Net, IMAGES, LABELS, gate="unfair")
    network = Net().requires_grad_(False)
    with pytest.raises(SettingError, match="space=Net: has no parameter that can be trained"):
        nas.train_supernet(network, IMAGES, LABELS, **SHORT)
    network.mix.branches[1].requires_grad_(True)
    with pytest.raises(SpaceError, match=r"path=\(0,\): has nothing to train: its parameters are frozen"):
        nas.train_supernet(network, IMAGES, LABELS, **SHORT)
    with pytest.raises(SpaceError, match="network=Linear: has no gated block"):
        ModuleSpace(nn.Linear(2, 2))


@pytest.mark.parametrize("name", ["digits", "own_network"])
def test_notebooks_run(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    train, text = from_tensors.train_supernet, (EXAMPLES / f"{name}.py").read_text()
    monkeypatch.setattr(from_tensors, "train_supernet", lambda *args, **how: train(*args, **{**how, "epochs": 1}))
    assert len(text.splitlines()) < 80
    found = {"__name__": "__main__"}
    exec(compile(text, name, "exec"), found)
    assert not any(isinstance(module, GatedSum) for module in found["network"].modules())
    assert "epoch 1/1  loss" in capsys.readouterr().out
