"""``nas-export``: from a run to files, or to one line; and ``nas-train architecture=...``."""

import os
import re
import signal
import sys

import pytest
import torch

import nas.export.write
from nas.export import load

CELL = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|nor_conv_1x1~0|none~1|avg_pool_3x3~2|"


@pytest.fixture
def first(nas_train, tiny):
    """A run of two branches, as a word for ``nas-export``."""
    assert nas_train(*tiny, "run=first").status == 0
    return "checkpoint=outputs/train/first"


def test_a_run_becomes_files_that_can_be_loaded(nas_export, first, tmp_path):
    status, out, err = nas_export(first, "run=a")
    assert (status, err) == (0, "")
    folder = tmp_path / "outputs" / "export" / "a"
    assert out.splitlines()[-1] == f"folder:     {folder}"
    assert re.search(r"weights\.safetensors .* 0, bit for bit .* 75 of 75", out)
    assert re.search(r"network\.pt2 ", out)
    assert load(folder)(torch.zeros(3, 3, 32, 32)).shape == (3, 10)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["a"]

    status, out, err = nas_export(first, "run=a")
    rule = r"exists already and is not empty; take another run=NAME, or delete the folder"
    assert status == 1
    assert re.fullmatch(rf"nas-export: run={folder}: {rule}\n", err)
    status, out, err = nas_export("-m", first, "architecture=0,1", "run=both", "program=false")
    assert (status, err) == (0, "")
    made = [path.name for path in (folder.parent / "both").iterdir() if path.is_dir()]
    assert sorted(made) == ["architecture=0", "architecture=1"]


WRONG = {
    "": r"checkpoint='': one of checkpoint and search must be given; write for example checkpoint=outputs/train/first",
    "checkpoint=nowhere/first": r"checkpoint=nowhere/first: does not exist; name the folder of a run of nas-train",
    "checkpoint=outputs": r"architecture=best: there is no report\.json in outputs to say .*",
    "checkpoint=outputs architecture=1": r"checkpoint=outputs: has no checkpoint in it; name the folder .*",
    "checkpoint=a search=b": r"checkpoint, search=a, b: a search has its own checkpoint; leave one of them out",
    "search=nowhere": r"search=nowhere: .*",
    "FIRST architecture=5": r"architecture=\(5,\): entry 5 must name .*slot mix has 0 to 1: branch0, branch1",
    "FIRST onnx=true program=false": r"onnx=true: is translated from the program; leave program=false out, .*",
    "FIRST onnx=true": r"onnx=true: needs onnxscript, which cannot be found; pip install onnx onnxscript onnxruntime",
    "FIRST pictures=0": r"pictures=0: must be at least 1; write for example pictures=256",
    "FIRST hydra.run.dir=file/a": r"file/a: Not a directory; make room or take another folder, .*",
    "checkpoint=old.pt architecture=0": r"checkpoint=old\.pt: is of an older version of gated-nas; train again .*",
    "checkpoint=cut architecture=0": r"checkpoint=cut: is damaged .*; use another one, or delete it",
}


def test_bad_input_is_one_line_and_leaves_nothing(nas_export, first, tmp_path, monkeypatch):
    path = max((tmp_path / "outputs" / "train" / "first").glob("step_*.safetensors"))
    torch.save({"format": 1}, tmp_path / "old.pt")
    (tmp_path / "cut").write_bytes(path.read_bytes()[:-100])
    (tmp_path / "file").touch()
    for name in ("onnx", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, sys)  # there, whether installed or not
    monkeypatch.setattr("nas.export.formats.find_spec", lambda name: None if name == "onnxscript" else name)
    before = sorted(tmp_path.rglob("*"))
    for words, rule in WRONG.items():
        status, out, err = nas_export(*words.replace("FIRST", first).split())
        assert (status, out) == (1, ""), words
        assert re.fullmatch(rf"nas-export: {rule}\n", err), (words, err)
        assert sorted(tmp_path.rglob("*")) == before, words


def test_a_stop_is_silent_and_leaves_nothing(nas_export, first, tmp_path, monkeypatch):
    before = sorted(tmp_path.rglob("*"))
    for number in (signal.SIGINT, signal.SIGTERM):
        monkeypatch.setattr(nas.export.write, "make_program", lambda *_, number=number: os.kill(os.getpid(), number))
        assert nas_export(first, "architecture=1") == (128 + number, "", "")
        assert sorted(tmp_path.rglob("*")) == before


def test_a_cells_notation_is_taken_as_published(nas_train, nas_export, tiny, tmp_path):
    words = ("space=cell", "space.cells=1", "space.width=4", "data.image_size=8", "data.size=100")
    assert nas_train(*tiny, "train.batch_size=16", *words, "run=cells").status == 0
    status, _, err = nas_export("checkpoint=outputs/train/cells", f"architecture='{CELL}'", "run=a", "program=false")
    assert (status, err) == (0, "")
    assert CELL in (tmp_path / "outputs" / "export" / "a" / "README.md").read_text()


DIFFERENT = {
    "seed=1": "seed: 0 -> 1",
    "space=chain": "space\\.name: two_branch -> chain",
    "space.branches=3 data.val_fraction=0.3": "data\\.val_fraction: 0\\.1 -> 0\\.3; space\\.branches: 2 -> 3",
    "data=digits data.crop=2": "data\\.name: synthetic -> digits",
    "+experiment=cifar10_two_branch": "data\\.name: synthetic -> cifar10",
}
"""From what the checkpoint of ``first`` has."""


def test_a_subnetwork_is_trained_alone_and_compared(nas_train, first, tiny, tmp_path):
    training = [word for word in tiny if not word.startswith("data")]  # the images are the checkpoint's
    for words, changed in DIFFERENT.items():
        ended = nas_train(*training, "architecture=1", first, *words.split())
        rule = rf"has another space, or its images were split otherwise \({changed}\); leave that out, it comes with .*"
        assert re.fullmatch(rf"nas-train: checkpoint=outputs/train/first: {rule}\n", ended.err), (words, ended.err)
    ended = nas_train(*training, "architecture=1", first, "run=alone", "space=two_branch", "data.crop=2")
    assert (ended.status, ended.err) == (0, "")
    folder = tmp_path / "outputs" / "train" / "alone"
    for name, architecture in (("scratch", 1), ("inherited", 1), ("random", 0)):
        assert re.search(
            rf"^{name}: {architecture} \(branch{architecture}\), .* FLOPs, 4 steps, on cpu", ended.out, re.M
        )
        assert re.search(rf"│ {name} +│ {architecture} +│ branch{architecture} ", ended.out)
    lines = ended.out.splitlines()
    assert lines[-2:] == ["random: drawn by the seed, +0.0% FLOPs", f"run:         {folder}"]
    assert (folder / "retrain.json").is_file()
    quiet = nas_train(*training, "architecture=1", first, "run=alone", "data.crop=2", "track.progress=false")
    assert quiet.out.splitlines() == lines[lines.index("Trained alone: accuracy") :]
    # The other way round, and the best of a run.
    ended = nas_train(*tiny, "run=alone")
    assert re.fullmatch(r"nas-train: run=.*/alone: has networks in it that were trained alone; take .*\n", ended.err)
    ended = nas_train(*tiny, "architecture=best", first, "run=first")
    assert re.fullmatch(r"nas-train: run=.*/first: is the run of a supernet; take another run=NAME\n", ended.err)


ALONE = [
    ("architecture=0 gate=fair", r"gate=fair: must be left out where architecture= is given.*; leave out one .*"),
    ("architecture=best", r"architecture=best: of what, has to be said; write checkpoint=.*"),
    ("checkpoint=a", r"checkpoint=a: is for training a subnetwork of it alone; write architecture=best beside it"),
    ("architecture=5", r"architecture=\(5,\): entry 5 must name .*"),
    ("architecture=0 checkpoint=nowhere", r"checkpoint=nowhere: does not exist; .*"),
]


def test_wrong_words_for_retraining_are_one_line(nas_train, tiny, tmp_path):
    for words, line in ALONE:
        ended = nas_train(*tiny, *words.split())
        assert ended.status == 1, words
        assert re.fullmatch(rf"nas-train: {line}\n", ended.err), ended.err
        assert not list(tmp_path.iterdir()), words


def test_the_same_command_continues_a_stopped_retraining(nas_train, stopped_at, first, tiny, tmp_path, same_weights):
    words = (*tiny, "train.epochs=2", "architecture=1", first)
    folder = tmp_path / "outputs" / "train"
    with stopped_at("*/inherited/step_*", signal.SIGINT):
        ended = nas_train(*words, "run=stopped")
    assert (ended.status, ended.err) == (130, "")
    last = ended.out.splitlines()[-1]
    assert re.match(r"stopped by SIGINT, saved; to go on: \S*nas-train data=synthetic", last), last
    ended = nas_train(*words, "run=stopped")
    assert ended.status == 0, ended.err
    assert re.search(r"scratch: 1 .* going on at step 8 of 8", ended.out)
    assert re.search(r"inherited: 1 .* going on at step [4-7] of 8", ended.out)
    assert nas_train(*words, "run=undisturbed").status == 0
    for name in ("scratch", "inherited", "random"):
        assert same_weights(folder / "stopped" / name, folder / "undisturbed" / name)
    assert (folder / "stopped" / "retrain.json").read_bytes() == (folder / "undisturbed" / "retrain.json").read_bytes()
