"""What somebody else's checkpoint cannot do."""

import json
import sys
from dataclasses import asdict, replace
from hashlib import sha256

import pytest
import torch
from support.runs import RUNS, finish, tiny

from nas.checkpoint import agreed, load, load_trained, save, saved
from nas.checkpoint import settings_of as settings_in
from nas.checkpoint.file import PARTS
from nas.errors import CheckpointError, DataError, NasError
from nas.sealed import seal, unseal
from nas.search import Search
from nas.search.evaluate.evaluator import Finetune
from nas.settings import (
    CifarSettings,
    CustomSettings,
    FolderSettings,
    SearchRunSettings,
    SearchSettings,
    TrainingsSettings,
    TrainRunSettings,
)
from nas.train import Run

TRAP = """
import pathlib
pathlib.Path(__file__).with_name("touched").touch()
from support.exports import Net
"""
NAME = "chain-fair-adamw-ema"


def settings_of(name):
    small = tiny(RUNS[name], epochs=1)
    return replace(small, track=replace(small.track, writers=[]))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The last checkpoint of runs of several kinds."""
    names = ("two_branch-uniform-sgd", NAME, "chain-learned")
    return {name: saved(finish(settings_of(name), tmp_path_factory.mktemp(name)).folder)[0] for name in names}


@pytest.fixture
def forged(made, tmp_path):
    """A checkpoint in which something was changed, consistently, with the right checksum."""

    def write(edit, name=NAME):
        state = load(made[name])
        state = {**state, "model": {key: value.clone() for key, value in state["model"].items()}}
        edit(state)
        return save(tmp_path, 11, state)

    return write


def resealed(path, to, edit):
    """As ``forged``, of what :func:`save` would not write: ``edit`` gets the metadata and the tensors."""
    metadata, tensors = unseal(path)
    edit(metadata, tensors)
    to.write_bytes(seal(metadata, tensors))
    return to


def test_an_unnamed_factory_is_neither_imported_nor_called(forged, tmp_path, monkeypatch):
    (tmp_path / "trap.py").write_text(TRAP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    path = forged(lambda state: state["settings"].update(space=asdict(CustomSettings(factory="trap:Net"))))
    for other in ("", "trap:Other", "trap", "runs:tiny"):
        with pytest.raises(CheckpointError) as caught:
            load_trained(path, factory=other)
        assert str(caught.value).startswith(
            f"factory={other or chr(39) * 2}: the network of {path} is built by trap:Net"
        )
        assert caught.value.remedy == "write factory=trap:Net if you trust it"
    with pytest.raises(
        CheckpointError, match=r"^space\.factory=''.*; write space=custom space\.factory=trap:Net if you"
    ):
        agreed(TrainRunSettings(), settings_in(path), "checkpoint", path, given=())
    with pytest.raises(CheckpointError, match="was begun with other settings"):
        Run(settings_of(NAME), tmp_path)
    assert not (tmp_path / "touched").exists()
    assert "trap" not in sys.modules
    with pytest.raises(CheckpointError, match="does not fit the network"):  # it is called now, and is another network
        load_trained(path, factory="trap:Net")
    assert (tmp_path / "touched").exists()
    sys.modules.pop("trap")


def test_unnamed_functions_are_not_called_in_further_trainings(forged, tmp_path, monkeypatch):
    monkeypatch.setattr("nas.plugin.load_named", lambda key, name: pytest.fail(f"loads {name}"))
    evil = {"name": "custom", "factory": "os:system", "kwargs": {"command": "true"}, "lr": 0.1}
    for key, change in {
        "optimizer": lambda s: s.update(optimizer=evil),
        "schedule": lambda s: s["train"].update(schedule="os:system"),
        "loss": lambda s: s["train"].update(loss="os:system"),
        "augment": lambda s: s["data"].update(augment="os:system"),
    }.items():
        path = forged(lambda state, change=change: change(state["settings"]))
        for trusted in ([], ["os:remove"]):
            train = TrainingsSettings(epochs=1, trusted=trusted)
            how = SearchSettings(objectives=["trained"], finals=1, train=train, progress=False)
            words = r"^search.train.trusted=.*trained by os:system, .*; write search.train.trusted=\[os:system\]"
            with pytest.raises(CheckpointError, match=words):
                Search(SearchRunSettings(checkpoint=str(path), search=how), tmp_path / "search")
        trained = load_trained(path)  # and what else looks at a trained supernet calls nothing either
        Finetune.of(trained, 1, 0.01)(trained.supernet, (0, 0))
        if key == "augment":
            with pytest.raises(CheckpointError, match=r"^data.augment=\[\]: .*by os:system.*; write data.augment=\[os"):
                agreed(TrainRunSettings(), trained.settings, "checkpoint", path, given=())
        for given in ((), ("data.augment",)) if key != "augment" else (("data.augment",),):
            found = agreed(TrainRunSettings(), trained.settings, "checkpoint", path, given=given)
            assert "os:system" not in str(found)


def test_nothing_is_downloaded_for_a_checkpoint(forged, tmp_path, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", lambda *_, **__: pytest.fail("downloads"))
    data = asdict(CifarSettings(root=str(tmp_path / "there"), download=True))
    path = forged(lambda state: state["settings"].update(data=data))
    with pytest.raises(DataError, match=r"cifar10 is not there.*; nothing is downloaded for a checkpoint: a run"):
        load_trained(path)
    assert agreed(TrainRunSettings(), settings_in(path), "checkpoint", path, given=()).data.download is False
    assert not (tmp_path / "there").exists()


def test_no_folder_is_begun_where_a_checkpoint_says(forged, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("nas.checkpoint.trained.load_splits", lambda data, *_: asked.append(data) or 1 / 0)
    (tmp_path / "old").mkdir()
    for cache, expected in (("new", FolderSettings.cache), ("old", str(tmp_path / "old"))):
        data = asdict(FolderSettings(root=str(tmp_path), cache=str(tmp_path / cache)))
        with pytest.raises(ZeroDivisionError):
            load_trained(forged(lambda state, data=data: state["settings"].update(data=data)))
        assert asked.pop().cache == expected


def test_a_checkpoint_without_its_parts_is_one_line(made, tmp_path):
    def put(part, value):
        text = value if isinstance(value, str) else json.dumps(value)
        return lambda metadata, tensors: metadata.update({part: text})

    wrong = {f"it has no {part}": (lambda m, t, part=part: m.pop(part)) for part in PARTS}
    wrong |= {f"its {part} is of another type": put(part, '"x"' if part != "initial" else "3") for part in PARTS}
    wrong |= {
        "its step is of another type": put("step", True),
        "its versions is of another type": put("versions", {"torch": [1]}),
        "its modules is of another type": put("modules", {"": "x"}),
        "its step or metrics_bytes is negative": put("metrics_bytes", -1),
        "has format 7, this version reads 2": put("format", 7),
        "its extra has a number without end": put("extra", "9" * 5000),
        "its more has a number without end": put("more", "[1e999]"),
        "its track has NaN for a number": put("track", "[NaN]"),
        "is damaged .maximum recursion depth": put("extra", "[" * 100_000),
        "is damaged .Expecting": put("extra", "{"),
        "its nowhere belongs to no part": lambda m, t: t.update(nowhere=torch.ones(1)),
        "its step/x belongs to no part": lambda m, t: t.update({"step/x": torch.ones(1)}),
        "its model/none has no complex numbers": put("complex", ["model/none"]),
    }
    for words, edit in wrong.items():
        path = resealed(made["chain-learned"], tmp_path / "step_000000011.safetensors", edit)
        with pytest.raises(CheckpointError, match=words) as caught:
            load(path)
        assert caught.value.remedy
        assert len(str(caught.value)) < 500, words


def test_sizes_belied_by_the_file_are_refused(made, tmp_path):
    data, path = made["chain-learned"].read_bytes(), tmp_path / "a.safetensors"
    shape = unseal(made["chain-learned"])[1]["gate/logits"].shape
    old = f'"gate/logits":{{"dtype":"F32","shape":{list(shape)}'.replace(" ", "").encode()
    assert old in data
    for new in (old[:-1] + b"0" * 9 + b"]", old.replace(b"F32", b"F64"), old[:-1] + b"," + b"9" * 30 + b"]"):
        changed = bytearray(data.replace(old, new))
        changed[:8] = (int.from_bytes(data[:8], "little") + len(new) - len(old)).to_bytes(8, "little")
        changed[34:98] = b"0" * 64
        changed[34:98] = sha256(changed).hexdigest().encode()
        path.write_bytes(changed)
        with pytest.raises(CheckpointError, match="is damaged") as caught:
            load(path)
        assert "checksum" not in str(caught.value)


def first(state):
    return next(iter(state["model"]))


def of(part, kind, change):
    """Changes the first entry of a part whose name begins with ``kind``, or takes it out."""

    def do(state):
        name = next(name for name in state[part] if name.startswith(kind))
        if (new := change(state[part].pop(name))) is not None:
            state[part][name] = new

    return do


NARROW, GONE = lambda value: torch.ones(1, 1, 1), lambda value: None
INFINITE = lambda value: value.clone().fill_(torch.inf)  # noqa: E731
MISFITS = [
    ("two_branch-uniform-sgd", of("model", "mix", NARROW), "size mismatch for mix"),
    ("two_branch-uniform-sgd", of("optimizer", "momentum", GONE), "momentum_buffer/.* is missing"),
    ("two_branch-uniform-sgd", lambda s: s["optimizer"].update({"exp_avg/x": torch.ones(1)}), "exp_avg/x is unknown"),
    ("two_branch-uniform-sgd", lambda s: s["gate"].update(logits=torch.ones(1)), "this gate learns nothing"),
    ("chain-learned", of("model", "stem", lambda value: value.cfloat()), "is torch.complex64 and not"),
    ("chain-learned", lambda s: s.update(step=12), "it is of step 12 in a run of 11"),
    ("chain-learned", lambda s: s["optimizer"].update({"average/x": torch.ones(1)}), "average/x is unknown"),
    ("chain-learned", of("gate", "logits", GONE), "logits is missing"),
    ("chain-learned", of("gate", "logits", NARROW), r"logits is \(1, 1, 1\) and not"),
    ("chain-learned", of("gate", "step", lambda value: -value), "step is negative"),
    ("chain-learned", lambda s: s["track"].pop("step_s"), "it has no step_s"),
    (NAME, of("optimizer", "average", GONE), "average/.* is missing"),
    (NAME, of("optimizer", "exp_avg_sq", NARROW), r"exp_avg_sq/.* is \(1, 1, 1\) and not"),
    (NAME, of("optimizer", "exp_avg/", INFINITE), "exp_avg/.* is not finite"),
    (NAME, of("optimizer", "step", lambda value: -value), "step/.* is negative"),
]


def test_a_run_never_resumes_from_parts_of_another(forged, tmp_path):
    for name, edit, words in MISFITS:
        forged(edit, name)
        with pytest.raises(CheckpointError, match=rf"run=.*: its checkpoint does not fit the network \(.*{words}"):
            Run(settings_of(name), tmp_path)
        assert not (tmp_path / "metrics.jsonl").exists(), words


def test_a_network_belied_by_the_file_is_refused(forged):
    wrong = {
        r"size mismatch for stem.*\[4, .*\[65536, ": lambda s: s["settings"]["space"].update(widths=[1 << 16]),
        "Missing key": lambda s: s["settings"]["space"].update(depths=[3]),
        "Unexpected key.*more": lambda s: s["model"].update(more=torch.ones(1)),
        "expected torch.Tensor": lambda s: s["model"].update({first(s): [1]}),
        "is not finite": lambda s: s["model"][first(s)].fill_(torch.nan),
        "average/.* is missing": of("optimizer", "average", GONE),
        "average/.* is .* and not": of("optimizer", "average", NARROW),
        "seed=-1 must not be negative": lambda s: s["settings"].update(seed=-1),
        "is unknown to this version": lambda s: s["settings"]["space"].update(name=["x"]),
        r"space\.depths": lambda s: s["settings"]["space"].update(depths=[1 << 40]),
        r"data\.size": lambda s: s["settings"]["data"].update(size=1 << 50),
    }
    for words, edit in wrong.items():
        with pytest.raises(NasError, match=words):
            load_trained(forged(edit))
