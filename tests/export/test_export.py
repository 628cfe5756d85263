"""An exported network computes what the supernet's subnetwork does, whatever the space and however it was trained."""

import csv
import json
import logging
import math
import os
import sys
from dataclasses import replace
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from support.exports import KINDS, of

import nas
from nas.checkpoint import calibrated
from nas.cost import count_flops
from nas.errors import ArchitectureError
from nas.export import ExportError, export, load, tables, write
from nas.export.compare import Reference
from nas.export.formats import PACKAGES
from nas.export.load import normalisation_of
from nas.nn import GatedBlock
from nas.settings import CustomSettings, FolderSettings
from nas.train import evaluate

HAS_ONNX = all(find_spec(name) for name in PACKAGES)
PROGRAMS = ("chain, several open", "chain, concat", "cell", "custom")
"""Kinds whose program is traced here too; the others' programs are like one of these."""


def images(trained, number=40):
    return trained.batches(trained.splits.test.subset(torch.arange(number) % len(trained.splits.test)), number)[0][0]


def nothing_in(folder):
    return not list(folder.iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_each_file_computes_what_the_subnetwork_does(make_trained, tmp_path, kind):
    settings, text = KINDS[kind]
    trained = make_trained(settings)
    architecture = trained.space.decode(text)
    has_onnx = kind == "two_branch, both open" and HAS_ONNX
    exported = export(trained, architecture, tmp_path / "out", has_onnx or kind in PROGRAMS, has_onnx)
    subnetwork = calibrated(trained, architecture).to(memory_format=torch.contiguous_format)
    network = load(tmp_path / "out", getattr(settings.space, "factory", None))
    path = tmp_path / "out" / "network.pt2"
    program = torch.export.load(path).module() if path.exists() else network
    assert not network.training
    assert not any(isinstance(module, GatedBlock) for module in network.modules())
    x = images(trained).contiguous()
    for size in (1, 5, 40):
        with torch.no_grad():
            expected = subnetwork(x[:size], architecture)
            assert torch.equal(network(x[:size]), expected)
            torch.testing.assert_close(program(x[:size]), expected, rtol=1e-4, atol=1e-5)
    state = subnetwork.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert exported.comparisons[0].difference == 0
    assert [one.file for one in exported.comparisons] == [
        name for name in ("weights.safetensors", "network.pt2", "network.onnx") if name in exported.card["files"]
    ]


def test_the_card_says_what_was_measured(trained, tmp_path):
    architecture = (2, 0)
    card = export(trained, architecture, tmp_path / "out").card
    assert card == json.loads((tmp_path / "out" / "card.json").read_text())
    splits = trained.splits
    on = [trained.batches(split) for split in (splits.val, splits.test)]
    expected = [evaluate(trained.supernet, [architecture], batches, trained.calibration())[0] for batches in on]
    assert [card["accuracy"]["val"], card["accuracy"]["test"]] == [j.accuracy for j in expected]
    assert card["flops"] == count_flops(trained.supernet, architecture, (3, 16, 16))
    assert card["parameters"] == sum(p.numel() for p in load(tmp_path / "out").parameters())
    assert card["network"]["architecture"] == "2-0"
    assert card["choices"] == "conv3, skip"
    assert card["data"]["mean"] == splits.mean.tolist()
    assert card["checkpoint"]["path"] == f"{trained.path.parent.name}/{trained.path.name}"
    assert card["checkpoint"]["sha256"] == sha256(trained.path.read_bytes()).hexdigest()
    (head, *rows) = list(csv.reader((tmp_path / "out" / "confusion.csv").read_text().splitlines()))
    assert head == ["true class", *splits.classes, "images", "recall"]
    assert [int(row[-2]) for row in rows] == splits.test.labels.bincount(minlength=len(rows)).tolist()
    right = sum(int(row[1 + k]) for k, row in enumerate(rows))
    assert right / len(splits.test) == card["accuracy"]["test"]
    for name, digest in card["files"].items():
        assert sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == digest
    assert {*card["files"], "card.json"} == {path.name for path in (tmp_path / "out").iterdir()}


def test_batchnorm_statistics_are_those_of_the_evaluation(trained, tmp_path):
    settings, running = trained.settings, {k: v.clone() for k, v in trained.supernet.state_dict().items()}
    for recalibrate in (True, False):
        evaluate, folder = replace(settings.evaluate, recalibrate=recalibrate), tmp_path / str(recalibrate)
        export(replace(trained, settings=replace(settings, evaluate=evaluate)), (2, 2), folder, program=False)
        state = load(folder).state_dict()
        names = [name for name in state if name.endswith("running_mean")]
        assert names
        assert all(torch.equal(state[name], running[name]) is not recalibrate for name in names)
    after = trained.supernet.state_dict()
    assert all(torch.equal(value, running[name]) for name, value in after.items()), "the supernet changed"


def test_readme_and_tables_name_the_files_written(trained, tmp_path):
    data = FolderSettings(root="here", image_size=28, resize="pad", resized_crop=0.5)
    exported = export(replace(trained, settings=replace(trained.settings, data=data)), (1, 2), tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "chain: 1-2" in text
    assert "padded with black to 32x32, then cut to the middle 28x28." in text
    assert "network.pt2" in text
    assert "network.onnx" not in text
    assert 'load("path/to/this/folder")' in text
    network, files = tables(exported)
    assert list(files.columns[0].cells) == ["weights.safetensors", "network.pt2"]
    assert next(iter(files.columns[2].cells)) == "0, bit for bit"
    assert "conv1, conv3" in network.columns[1].cells


@pytest.mark.skipif(not HAS_ONNX, reason="needs the packages of the onnx extra")
@pytest.mark.parametrize("fold", [False, True])
def test_every_file_carries_what_its_callers_need(trained, tmp_path, fold):
    card = export(trained, (2, 2), tmp_path / "out", onnx=True, fold=fold).card
    import onnxruntime

    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "network.onnx"))
    extra = dict.fromkeys(["classes", "mean", "std", "input_size", "input", "card"], "")
    program = torch.export.load(tmp_path / "out" / "network.pt2", extra_files=extra).module()
    assert session.get_modelmeta().custom_metadata_map == extra
    splits = trained.splits
    assert json.loads(extra["classes"]) == list(splits.classes)
    assert json.loads(extra["input_size"]) == [3, 16, 16]
    assert json.loads(extra["card"]) == {name: value for name, value in card.items() if name != "files"}
    assert extra["input"] == card["input"]
    pixels = splits.test.take(torch.arange(5))
    mean, std = (torch.tensor(json.loads(extra[name])).view(-1, 1, 1) for name in ("mean", "std"))
    x = pixels if fold else (pixels / 255 - mean) / std
    assert extra["input"].startswith("uint8" if fold else "float32")
    with torch.no_grad():
        expected = calibrated(trained, (2, 2))(trained.batches(splits.test.subset(torch.arange(5)), 5)[0][0], (2, 2))
        found = load(tmp_path / "out")(x), program(x), torch.tensor(session.run(None, {"pictures": x.numpy()})[0])
    if fold:
        with pytest.raises(ExportError, match=r"images=torch\.float32: must be uint8"):
            load(tmp_path / "out")(x / 255)
    for logits in found:
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


def test_a_damaged_normalisation_is_one_line(trained, tmp_path):
    export(trained, (2, 2), tmp_path / "out", program=False, fold=True)
    network = json.loads((tmp_path / "out" / "card.json").read_text())["network"]
    for wrong in ([], {"mean": [0.0] * 3}, {"mean": [0.0] * 3, "std": [0.0] * 3}, {"mean": [0.0], "std": [1.0]}):
        with pytest.raises(ExportError, match="its normalisation is not a mean"):
            normalisation_of(tmp_path / "out", network | {"normalisation": wrong})


@pytest.mark.skipif(not HAS_ONNX, reason="needs the packages of the onnx extra")
def test_exports_are_silent_and_name_no_local_paths(trained, tmp_path, capfd, recwarn, caplog):
    export(trained, (2, 2), tmp_path / "out", onnx=True)
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list
    assert not [record for record in caplog.records if record.levelno >= logging.INFO]
    for path in (tmp_path / "out").iterdir():
        for place in (Path(nas.__file__).parent, Path(torch.__file__).parent, trained.path.parent.parent, tmp_path):
            assert str(place).encode() not in path.read_bytes(), path.name
    (example,), _ = torch.export.load(tmp_path / "out" / "network.pt2").example_inputs
    assert not example.any()
    import onnx

    graph = onnx.load(tmp_path / "out" / "network.onnx").graph
    assert not any(node.metadata_props for node in graph.node)
    assert [value.name for value in (*graph.input, *graph.output)] == ["pictures", "logits"]
    assert [value.type.tensor_type.shape.dim[0].dim_param for value in (*graph.input, *graph.output)] == ["batch"] * 2


def test_a_file_that_computes_something_else_is_refused(trained, tmp_path, monkeypatch):
    run_program, rule = write.run_program, r"file=\S+: differs from the supernet's subnetwork by .*at most"
    monkeypatch.setattr(write, "run_program", lambda path: lambda x: run_program(path)(x) + 1e-2)
    with pytest.raises(ExportError, match=rule):
        export(trained, (1, 2), tmp_path / "out")
    assert nothing_in(tmp_path)
    reference = Reference.of(trained.supernet, (1, 2), images(trained))
    for off in (1e-2, -1e-2, math.nan, math.inf):
        with pytest.raises(ExportError, match=rule):
            reference.compare(tmp_path, lambda x, off=off: trained.supernet(x, (1, 2)) + off)
    with pytest.raises(ExportError, match=r"gives \(40, 2\), the supernet's subnetwork \(40, 3\)"):
        reference.compare(tmp_path, lambda x: trained.supernet(x, (1, 2))[:, :2])


def test_weights_that_differ_in_one_bit_are_refused(trained, tmp_path, monkeypatch):
    def nearly(folder, factory):
        network = load(folder, factory)
        with torch.no_grad():
            network.head.bias[0] = torch.nextafter(network.head.bias[0], torch.tensor(9.0))
        return network

    monkeypatch.setattr(write, "load", nearly)
    with pytest.raises(ExportError, match="at most 0 is allowed"):
        export(trained, (1, 2), tmp_path / "out")
    assert nothing_in(tmp_path)


def test_whatever_stops_it_nothing_is_left(trained, tmp_path):
    full = OSError(28, "No space left on device")
    stops = {"write_weights": full, "write_program": KeyboardInterrupt(), "readme": full, "load": SystemExit()}
    for moment, stop in stops.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(write, moment, Mock(side_effect=stop))
            with pytest.raises(type(stop)):
                export(trained, (1, 2), tmp_path / "out", program=moment == "write_program")
        assert nothing_in(tmp_path), moment


def test_an_existing_folder_is_refused_and_kept(trained, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    (tmp_path / "file").touch()
    for name in ("out", "file"):
        with pytest.raises(ExportError, match=r"exists already and is not empty; take another run=NAME"):
            export(trained, (1, 2), tmp_path / name)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "mine", "out"]


def test_empty_and_unfinished_folders_are_replaced(trained, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out.unfinished").mkdir()
    (tmp_path / "out.unfinished" / "weights.safetensors").write_bytes(b"half")
    export(trained, (1, 2), tmp_path / "out", program=False)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder_is_an_os_error(trained, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError):
        export(trained, (1, 2), tmp_path / "out")


def test_an_architecture_that_does_not_fit_is_refused(trained, tmp_path):
    for architecture in ((1,), (1, 7)):
        with pytest.raises(ArchitectureError):
            export(trained, architecture, tmp_path / "out")
    assert nothing_in(tmp_path)


def test_missing_packages_are_named_with_their_command(trained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    rule = r"onnx=true: needs .*onnxruntime, which cannot be found; pip install onnx onnxscript onnxruntime"
    with pytest.raises(ExportError, match=rule):
        export(trained, (1, 2), tmp_path / "out", onnx=True)
    assert nothing_in(tmp_path)
    export(trained, (1, 2), tmp_path / "out", program=False)


def test_an_untraceable_network_is_exported_without_program(make_trained, tmp_path):
    trained = make_trained(of(CustomSettings(factory="support.exports:Stubborn")))
    with pytest.raises(ExportError, match=r"program=true: torch\.export cannot follow .*; program=false "):
        export(trained, (1,), tmp_path / "out")
    assert nothing_in(tmp_path)
    export(trained, (1,), tmp_path / "out", program=False)
    x = images(trained)
    assert torch.equal(load(tmp_path / "out", factory="support.exports:Stubborn")(x), trained.supernet(x, (1,)))
