"""Bad input gets one line on stderr, status 1, and leaves nothing behind."""

import os
import re
import shutil
import sys
import zipfile

import pytest
import torch

NETS = """
import torch
from torch import nn
from nas.nn import GatedSum

class Plain(nn.Linear):
    pass

class Net(nn.Module):
    def __init__(self, broken=False):
        super().__init__()
        if broken:
            raise ValueError("the user's own bug")
        self.mix = GatedSum([nn.Flatten(), nn.Flatten()])

class Wrong(Net):
    def forward(self, x, architecture):
        x = self.mix(x, architecture[0])
        if architecture:
            raise ValueError("no such path")

class Narrow(Net):
    def forward(self, x, architecture):
        return nn.Linear(7, 10)(self.mix(x, architecture[0]))
"""

WRONG = {
    "train.epochs=0": r"train\.epochs=0: must be above 0 and finite; .*",
    "--multirun --cfg job": r"--multirun: Only one of .* can be specified; .*",
    "--config-name=foo": r"--config-name=foo: there is no such file; leave it out, or name one in --config-dir=FOLDER",
    "--config-name=rank": "--config-name=rank: is the file of another command; write nas-rank",
    "hydra.run.dir=a/b/c seed=-1": r"seed=-1: must not be negative; .*",
    "gate=fixed gate.architecture=5": r".*architecture=.*5.*: .* from 0 to 1, .*; slot mix has 0 to 1: .*",
    "gate=fixed gate.architecture=0-1": r".*architecture=.*: must have one entry for each of .*; write for example 1",
    "gate=fixed gate.architecture=a": r".*architecture=a: must be one number a slot.*; write for example 1",
    "train.device=cuda:99": r"train\.device=cuda:99: there is none on this machine; write train\.device=auto",
    "train.device=banana": r"train\.device=banana: is not a device; write auto, cpu or cuda",
    "data=folder data.root=/nowhere": r"data\.root=/nowhere: does not exist; name a folder or a zip.*",
    "data=folder data.root=": r"data\.root=: must be a path; write for example data\.root=PATH",
    "data=folder data.root=text.zip": r"data\.root=text\.zip: is neither a folder nor a zip .*; make the zip again.*",
    "data=folder data.root=cut.zip": r"data\.root=cut\.zip: is neither a folder nor a zip .*; make the zip again.*",
    "data=folder data.root=one": r"data\.root=one: .*one class.*",
    "data.size=50 train.batch_size=64": r"train\.batch_size=64: the train split has only 40 images; write .*=40 .*",
    "data.crop=99": r"data\.crop=99: must be smaller than an image, 32x32; 0 switches it off",
    "data.image_size=8": r"data.image_size=8: must be at least 16 for space two_branch; use .*",
    "space=chain space.candidates=[foo]": r"space\.candidates=foo: is not a known operation; choose from skip, .*",
    "gate=learned gate.target.flops=5": r"gate\.target\.flops=5: paths of space two_branch have .*; write .*=\d+",
    "space=custom space.factory=nowhere.net:Net": r"space\.factory=.*: there is no module nowhere; run from .*",
    "space=custom space.factory=nets:Gone": r"space\.factory=nets:Gone: nets has no Gone; name a class .*",
    "space=custom space.factory=nets:torch": r"space\.factory=nets:torch: is of the type module, .*; name .*",
    "space=custom space.factory=nets:Net space.kwargs.a=1": r"space\.kwargs=\{'a': 1\}: .* unexpected .*'a'.*; give .*",
    "space=custom space.factory=nets:Plain space.kwargs={in_features: 3, out_features: 3}": r".*has no gated block; .*",
    "hydra.run.dir=nets.py": r"nets\.py: File exists; make room or take another folder, .*",
    "hydra.run.dir=nets.py/a": r"nets\.py/a: Not a directory; make room or take another folder, .*",
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The folder with a user's files in it."""
    monkeypatch.delitem(sys.modules, "nets", raising=False)
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "text.zip").write_text("no zip")
    with zipfile.ZipFile(tmp_path / "cut.zip", "w") as archive:
        archive.writestr("train/a/1.png", os.urandom(2000))
    (tmp_path / "cut.zip").write_bytes((tmp_path / "cut.zip").read_bytes()[:-30])
    for place in "train", "test":
        (tmp_path / "one" / place / "cat").mkdir(parents=True)
        (tmp_path / "one" / place / "cat" / "1.png").write_bytes(b"?")
    return tmp_path


def test_bad_input_is_one_line_and_leaves_nothing(nas_train, tiny, here):
    before = sorted(here.rglob("*"))
    for words, line in WRONG.items():
        more = re.split(r" (?![^{]*\})", words)  # not inside braces
        common = [] if "-" in (word[0] for word in more) or "data=folder" in more else tiny
        ended = nas_train(*common, *more)
        assert (ended.status, ended.out) == (1, ""), words
        assert re.fullmatch(rf"nas-train: {line}\n", ended.err), ended.err
        assert sorted(path for path in here.rglob("*") if "__pycache__" not in path.parts) == before, words


def test_cuda_where_there_is_none_is_refused(nas_train, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    ended = nas_train(*tiny, "train.device=cuda")
    expected = "nas-train: train.device=cuda: there is none on this machine; write train.device=auto\n"
    assert (ended.status, ended.err) == (1, expected)
    assert not list(tmp_path.iterdir())


OWN = {
    "space.factory=nets:Net space.kwargs.broken=true": r"(Net\.)?__init__ in nets\.py, line 13, failed: ValueError: .*",
    "space.factory=nets:Wrong": r"(Wrong\.)?forward in nets\.py, line \d+, failed: ValueError: no such path",
    "space.factory=nets:Narrow": r"space=custom: does not run on \(2, 3, 32, 32\) images: mat1 .*; mend its forward.*",
    "space.factory=cut:Net": r".*/cut\.py, line 1: SyntaxError: .*",
}


def test_a_users_own_bug_shows_the_users_frames_alone(nas_train, tiny, here):
    (here / "cut.py").write_text("class Net(\n")
    for words, expected in OWN.items():
        ended = nas_train(*tiny, "space=custom", *words.split())
        line, *frames = ended.err.splitlines()
        assert (ended.status, ended.out) == (1, ""), words
        assert re.fullmatch(f"nas-train: {expected}", line), line
        files = re.findall(r'^  File "(.*)", line', "\n".join(frames), re.MULTILINE)
        assert {*files} == ({str(here / "nets.py")} if "nets" in words else set()), ended.err
    assert not (here / "outputs").exists()


def test_a_bug_of_ours_keeps_its_traceback(nas_train, tiny, monkeypatch):
    monkeypatch.setattr("nas.space.build.ChainSpace", int)  # which takes no such arguments
    with pytest.raises(TypeError):
        nas_train(*tiny, "space=chain")


def test_a_folder_with_something_in_it_is_left(nas_train, tmp_path):
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "mine").touch()
    assert nas_train("seed=-1").status == 1
    assert [path.name for path in (tmp_path / "outputs").iterdir()] == ["mine"]


def test_another_config_is_refused_with_the_difference(nas_train, tiny, tmp_path, all_bytes):
    assert nas_train(*tiny, "run=first").status == 0
    before = all_bytes(tmp_path)
    ended = nas_train(*tiny, "run=first", "optimizer.lr=0.5", "space=chain")
    assert ended.status == 1
    assert re.fullmatch(
        r"nas-train: run=.*/outputs/train/first: was begun with other settings \(.*"
        r"optimizer\.lr: 0\.05 -> 0\.5; .*space\.name: two_branch -> chain.*\); take another run=NAME.*\n",
        ended.err,
    ), ended.err
    assert all_bytes(tmp_path) == before


def test_a_checkpoint_of_another_space_is_refused(nas_train, tiny, tmp_path, all_bytes):
    assert nas_train(*tiny, "run=first").status == 0
    copied = tmp_path / "outputs" / "train" / "second"
    copied.mkdir()
    for path in (tmp_path / "outputs" / "train" / "first").glob("*.safetensors"):
        shutil.copy(path, copied)
    before = all_bytes(tmp_path)
    ended = nas_train(*tiny, "run=second", "space=chain")
    assert ended.status == 1
    assert re.fullmatch(r"nas-train: run=.*second: .*space\.name: two_branch -> chain.*\n", ended.err), ended.err
    assert all_bytes(tmp_path) == before
