"""What somebody else's checkpoint cannot do."""

import io
import os
import sys
import zipfile
from collections import Counter
from dataclasses import asdict, replace

import pytest
import torch
from support.runs import RUNS, finish, tiny

from nas.errors import CheckpointError, DataError, NasError
from nas.settings import CifarSettings, CustomSettings, FolderSettings
from nas.train import Run, checkpoint, load_trained
from nas.train.sound import PARTS

TRAP = """
import pathlib
pathlib.Path(__file__).with_name("touched").touch()
from support.exports import Net
"""


class Payload:
    """A pickle that makes a file where it is loaded."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The state of each kind of run, as its last checkpoint has it."""
    states = {}
    for name, settings in RUNS.items():
        folder = tmp_path_factory.mktemp(name)
        small = tiny(settings, epochs=1)
        finish(replace(small, track=replace(small.track, tensorboard=False)), folder)
        states[name] = checkpoint.saved(folder)[0].read_bytes()
    return states


@pytest.fixture
def forged(made, tmp_path):
    """A checkpoint in which something was changed, consistently, with all checksums right."""

    def write(edit, name="chain-fair-adamw-ema"):
        state = torch.load(io.BytesIO(made[name]), weights_only=True)
        edit(state)
        path = tmp_path / f"step_{state['step'] if type(state.get('step')) is int else 11:09d}.pt"
        torch.save(state, path)
        return path

    return write


def settings_of(name):
    small = tiny(RUNS[name], epochs=1)
    return replace(small, track=replace(small.track, tensorboard=False))


def test_a_payload_is_refused_and_does_not_run(forged, tmp_path):
    path = forged(lambda state: state.update(extra=Payload(tmp_path / "touched")))
    with pytest.raises(CheckpointError, match=r"is damaged \(it refers to \w+ mkdir, which no checkpoint does\)"):
        checkpoint.load(path)
    with pytest.raises(CheckpointError):
        load_trained(path)
    with pytest.raises(CheckpointError, match="none of the 1 checkpoints there can be read"):
        Run(settings_of("chain-fair-adamw-ema"), tmp_path)
    assert not (tmp_path / "touched").exists()


def test_weights_only_refuses_what_the_names_let_through(forged, tmp_path, monkeypatch):
    monkeypatch.setattr("nas.train.sound._check_names", lambda pickled: None)
    path = forged(lambda state: state.update(extra=Payload(tmp_path / "touched")))
    with pytest.raises(CheckpointError, match="is damaged"):
        checkpoint.load(path)
    assert not (tmp_path / "touched").exists()


def test_a_factory_is_neither_imported_nor_called_unless_the_user_names_it(forged, tmp_path, monkeypatch):
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
    assert not (tmp_path / "touched").exists()
    assert "trap" not in sys.modules
    with pytest.raises(CheckpointError, match="does not fit the network"):  # it is called now, and is another network
        load_trained(path, factory="trap:Net")
    assert (tmp_path / "touched").exists()
    sys.modules.pop("trap")


def test_a_run_of_other_settings_is_refused_before_its_factory_is_imported(forged, tmp_path, monkeypatch):
    (tmp_path / "trap.py").write_text(TRAP)
    monkeypatch.chdir(tmp_path)
    forged(lambda state: state["settings"].update(space=asdict(CustomSettings(factory="trap:Net"))))
    with pytest.raises(CheckpointError, match="was begun with other settings"):
        Run(settings_of("chain-fair-adamw-ema"), tmp_path)
    assert not (tmp_path / "touched").exists()


def test_nothing_is_downloaded_for_a_checkpoint(forged, tmp_path, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", lambda *_, **__: pytest.fail("downloads"))
    data = asdict(CifarSettings(root=str(tmp_path / "there"), download=True))
    path = forged(lambda state: state["settings"].update(data=data))
    with pytest.raises(DataError, match=r"cifar10 is not there.*; nothing is downloaded for a checkpoint: a run"):
        load_trained(path)
    assert not (tmp_path / "there").exists()


def test_no_folder_is_begun_where_a_checkpoint_says(forged, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("nas.train.trained.load_splits", lambda data, *_: asked.append(data) or pytest.fail("loaded"))
    (tmp_path / "old").mkdir()
    for cache, expected in (("new", FolderSettings.cache), ("old", str(tmp_path / "old"))):
        data = asdict(FolderSettings(root=str(tmp_path), cache=str(tmp_path / cache)))
        with pytest.raises(pytest.fail.Exception):
            load_trained(forged(lambda state, data=data: state["settings"].update(data=data)))
        assert asked.pop().cache == expected


def deep(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


def laughs():
    value = ["ha"] * 10
    for _ in range(12):
        value = [value] * 10
    return value


STRUCTURE = {
    **{f"no {name}": (lambda s, name=name: s.pop(name), rf"it has no {name}") for name in PARTS if name != "step"},
    "step is a text": (lambda s: s.update(step="9"), "its step is a str"),
    "step is true": (lambda s: s.update(step=True), "its step is a bool"),
    "step below 0": (lambda s: s.update(step=-1), "its step or metrics_bytes is negative"),
    "settings are a list": (lambda s: s.update(settings=[]), "its settings is a list"),
    "versions of lists": (lambda s: s.update(versions={"torch": [1]}), "its versions are no texts"),
    "initial is a list": (lambda s: s.update(initial=[]), "its initial is no text"),
    "no moments": (lambda s: s["optimizer"].pop("optimizer"), "its optimizer lacks moments or averages"),
    "averages by name": (lambda s: s["optimizer"].update(average={}), "its optimizer lacks moments or averages"),
    "nameless tensors": (lambda s: s["model"].update({1: torch.ones(1)}), "its model has tensors without a name"),
    "versions of modules": (lambda s: setattr(s["model"], "_metadata", {"": 3}), "the versions of its modules"),
    "deep": (lambda s: s.update(extra=deep(100)), "nested too deeply"),
    "a number without end": (lambda s: s.update(extra=1 << 900), "it has a number of 901 bits"),
    "expanded": (lambda s: s.update(extra=torch.zeros(1).expand(10**12)), "that is not stored whole"),
    "sparse": (lambda s: s.update(extra=torch.eye(3).to_sparse()), "it refers to torch._utils _rebuild_sparse_tensor"),
    "bytes of any size": (lambda s: s.update(extra=bytearray(3)), "it refers to .*bytearray"),
    "counter": (lambda s: s.update(extra=Counter("a")), "it refers to collections Counter"),
    "a dtype": (lambda s: s.update(extra=torch.float32), "it has a dtype"),
    "format of lists": (lambda s: s.update(format=torch.ones(3)), "is no checkpoint of a run"),
    "format of later": (lambda s: s.update(format=7), "has format 7, this version reads 1"),
}


@pytest.mark.parametrize("what", STRUCTURE)
def test_a_checkpoint_without_its_parts_is_one_line(forged, what):
    edit, words = STRUCTURE[what]
    with pytest.raises(CheckpointError, match=words) as caught:
        checkpoint.load(forged(edit))
    assert caught.value.remedy
    assert len(str(caught.value)) < 500


def test_lists_within_lists_without_end_are_refused_soon(forged, monkeypatch):
    monkeypatch.setattr("nas.train.sound.MOST_ENTRIES", 100_000)
    with pytest.raises(CheckpointError, match="too many entries"):
        checkpoint.load(forged(lambda state: state.update(extra=laughs())))


def test_something_else_than_a_dictionary_is_no_checkpoint(tmp_path):
    for number, what in enumerate(([1, 2], 3, torch.ones(2), "text")):
        torch.save(what, tmp_path / f"{number}.pt")
        with pytest.raises(CheckpointError, match="is no checkpoint of a run"):
            checkpoint.load(tmp_path / f"{number}.pt")


def rezip(data: bytes, path, compression=zipfile.ZIP_STORED, edit=lambda name, content: content, prefix=b""):
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(path, "w", compression) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, edit(entry.filename, old.read(entry)))
    path.write_bytes(prefix + path.read_bytes())
    return path


def test_a_compressed_checkpoint_is_refused_before_it_is_unpacked(made, tmp_path, monkeypatch):
    zeros = lambda name, content: bytes(50_000_000) if name.endswith("data/0") else content  # noqa: E731
    path = rezip(made["chain-learned"], tmp_path / "a.pt", zipfile.ZIP_DEFLATED, zeros)
    monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda _: pytest.fail("unpacks it"))
    with pytest.raises(CheckpointError, match="is compressed, which no checkpoint is"):
        checkpoint.load(path)


def test_an_entry_that_is_said_to_be_a_folder_is_refused(made, tmp_path):
    """With one bit of the directory, which has no checksum, torch leaves the memory of a tensor as it finds it."""
    data = bytearray(made["chain-learned"])
    at = data.rindex(b"PK\x01\x02", 0, data.rindex(b"/data/3")) + 38
    data[at] |= 0x10
    (tmp_path / "a.pt").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"data/3\d* is said to be a folder"):
        checkpoint.load(tmp_path / "a.pt")


def test_a_tensor_that_is_said_to_be_larger_than_its_bytes_is_refused(made, tmp_path):
    def grown(name, content):
        return content.replace(b"K\x04", b"M\xff\x7f") if name.endswith("data.pkl") else content

    with pytest.raises(CheckpointError, match="is damaged"):
        checkpoint.load(rezip(made["chain-learned"], tmp_path / "a.pt", edit=grown))


def test_what_torch_would_read_as_something_else_is_refused(made, tmp_path):
    with pytest.raises(CheckpointError, match="does not begin like a checkpoint"):
        checkpoint.load(rezip(made["chain-learned"], tmp_path / "a.pt", prefix=b"\x80\x02."))


def first(state):
    return next(iter(state["model"]))


def optimizer(state):
    return state["optimizer"]["optimizer"]


def averages(state):
    return state["optimizer"]["average"]


def moments(state):
    return optimizer(state)["state"]


def group(state):
    return optimizer(state)["param_groups"][0]


MISFITS = {
    "another weight": (
        "two_branch-uniform-sgd",
        lambda s: s["model"].update({first(s): torch.ones(3)}),
        "size mismatch for mix",
    ),
    "no weight": ("two_branch-uniform-sgd", lambda s: s["model"].pop(first(s)), "mix.*"),
    "a text for a weight": ("chain-learned", lambda s: s["model"].update({first(s): "x"}), "stem.*"),
    "complex": ("chain-learned", lambda s: s["model"].update({first(s): s["model"][first(s)].cfloat()}), "complex64"),
    "infinite": ("chain-learned", lambda s: s["model"][first(s)].fill_(torch.inf), r"is not finite"),
    "step too far": ("chain-learned", lambda s: s.update(step=12), "it is of step 12 in a run of 11"),
    "fewer averages": ("chain-fair-adamw-ema", lambda s: averages(s).pop(), "its moving averages"),
    "one average": ("chain-learned", lambda s: averages(s).append(torch.ones(1)), "its moving averages"),
    "broadcast": (
        "chain-fair-adamw-ema",
        lambda s: averages(s).__setitem__(0, torch.ones(1)),
        "averages",
    ),
    "AdamW's": ("two_branch-uniform-sgd", lambda s: moments(s)[0].update(exp_avg=torch.ones(1)), "its moments"),
    "no moments": ("two_branch-uniform-sgd", lambda s: moments(s).pop(0), "its moments"),
    "moment's shape": ("chain-fair-adamw-ema", lambda s: moments(s)[0].update(exp_avg=torch.ones(1)), "its moments"),
    "infinite moment": ("chain-fair-adamw-ema", lambda s: moments(s)[0]["exp_avg"].fill_(torch.nan), "its moments"),
    "moment's index": ("chain-fair-adamw-ema", lambda s: moments(s).update({999: moments(s)[0]}), "its moments"),
    "step of a text": ("chain-fair-adamw-ema", lambda s: moments(s)[0].update(step="x"), "its moments"),
    "momentum": ("two_branch-uniform-sgd", lambda s: group(s).update(momentum="x"), "its moments"),
    "no group": (
        "two_branch-uniform-sgd",
        lambda s: optimizer(s).update(param_groups=[]),
        "its moments",
    ),
    "a learned gate": (
        "two_branch-uniform-sgd",
        lambda s: s["gate"].update(logits=torch.ones(1)),
        "its gate is another",
    ),
    "no logits": ("chain-learned", lambda s: s["gate"].pop("logits"), "its gate"),
    "logits": ("chain-learned", lambda s: s["gate"].update(logits=torch.ones(5, 5)), "its gate"),
    "gate's Adam": ("chain-learned", lambda s: s["gate"]["optimizer"].update(state=3), "its gate"),
    "counts": ("chain-learned", lambda s: s["track"].update(counts=[[1]]), "its curves"),
    "counts of texts": ("chain-learned", lambda s: s["track"]["counts"][0].__setitem__(0, "x"), "its curves"),
    "run": ("chain-learned", lambda s: s["track"].update(run=[1]), "its curves"),
    "window": ("chain-learned", lambda s: s["track"].update(window=[float("nan")] * 6), "its curves"),
    "accuracies": ("chain-learned", lambda s: s["track"].update(accuracies=[[[7, 0.5]], []]), "its curves"),
    "paths": ("chain-learned", lambda s: s["track"].update(paths=[[[9, 9], 1, 1.0]]), "its curves"),
    "norms": ("chain-learned", lambda s: s["track"].update(grad_norms=[[0, 0, "x", 1]]), "its curves"),
    "no paths": ("chain-learned", lambda s: s["track"].pop("paths"), "its curves"),
}


@pytest.mark.parametrize("what", MISFITS)
def test_a_run_does_not_go_on_from_parts_of_another(forged, tmp_path, what):
    name, edit, words = MISFITS[what]
    forged(edit, name)
    with pytest.raises(CheckpointError, match=rf"run=.*: its checkpoint does not fit the network \(.*{words}"):
        Run(settings_of(name), tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize("name", RUNS)
def test_a_run_goes_on_from_its_own(made, forged, tmp_path, name):
    state = torch.load(forged(lambda state: None, name), weights_only=True)
    with pytest.warns(match="curves will have a gap"):
        run = Run(settings_of(name), tmp_path)
    run.tracker.writer.close()
    assert run.step == 11
    assert all(torch.equal(value, state["model"][key]) for key, value in run.supernet.state_dict().items())


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda s: s["settings"]["space"].update(widths=[1 << 16]), r"stem\..* is \(4, .*\) and not \(65536, "),
        (lambda s: s["settings"]["space"].update(depths=[3]), r"is not there and not \("),
        (lambda s: s["settings"]["space"].update(depths=[1]), r"and not there"),
        (lambda s: s["model"].update(more=torch.ones(1)), r"more is \(1,\) and not there"),
        (lambda s: s["model"].update({first(s): [1]}), r"is None and not \("),
        (lambda s: s["model"][first(s)].fill_(torch.nan), r"is not finite"),
        (lambda s: averages(s).pop(), "its moving averages are those of another network"),
        (lambda s: averages(s).__setitem__(0, torch.ones(1)), "its moving averages"),
        (lambda s: s["settings"].update(seed=-1), "seed=-1 must not be negative"),
        (lambda s: s["settings"]["space"].update(name=["x"]), "is unknown to this version"),
        (lambda s: s["settings"]["space"].update(depths=[1 << 40]), "space.depths"),
        (lambda s: s["settings"]["data"].update(size=1 << 50), "data.size"),
    ],
)
def test_a_network_that_the_file_does_not_bear_out_is_refused(forged, edit, words):
    with pytest.raises(NasError, match=words):
        load_trained(forged(edit))
