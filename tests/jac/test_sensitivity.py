"""``scripts/sensitivity.py`` on a small trained run: what it prints and draws, and what it says to mistakes."""

import importlib.util
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from support.examples import example
from support.runs import RUNS, finish, tiny

from nas.data import Ordered
from nas.train import make_report

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "sensitivity.py"


@pytest.fixture(scope="module")
def script():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("sensitivity", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["sensitivity"] = module  # its dataclasses look there
    spec.loader.exec_module(module)
    yield module
    del sys.modules["sensitivity"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Finished runs with their reports and folders: with BatchNorm and averaged weights, and without."""
    torch.set_num_threads(1)
    folders = [tmp_path_factory.mktemp("run") for _ in range(2)]
    names = "chain-fair-adamw-ema", "two_branch-uniform-sgd"
    finished = [finish(tiny(RUNS[name]), folder) for name, folder in zip(names, folders, strict=True)]
    return [(run, make_report(run), folder) for run, folder in zip(finished, folders, strict=True)]


@pytest.fixture(params=[0, 1])
def finished(request, runs):
    """Each of them."""
    return runs[request.param]


def left_in(folder):
    """The names of the files there that are not the run's own."""
    own = r"step_\d+\.safetensors|report\.json|confusion\..*|metrics\.jsonl|events\..*"
    return sorted(path.name for path in folder.iterdir() if not re.fullmatch(own, path.name))


@pytest.fixture
def call(script, capsys, monkeypatch):
    """The script's status, lines and error for these words."""
    monkeypatch.setattr("warnings.showwarning", None)  # the script sets its own; put back afterwards

    def run(*words):
        status, message = 0, ""
        try:
            script.main([str(word) for word in words])
        except SystemExit as stop:
            status, message = (1, f"{stop.code}\n") if isinstance(stop.code, str) else (stop.code, "")
        out, err = capsys.readouterr()
        return status, out.splitlines(), err + message

    return run


def test_figures_are_printed_and_the_maps_drawn(call, finished):
    run, report, folder = finished
    status, lines, err = call(folder, "--picture", 7)
    assert (status, err) == (0, "")
    assert lines[0] == f"Test image 7 of {len(run.splits.test)}: {run.splits.classes[run.splits.test.labels[7]]}"
    assert f"subnetwork {report.subnetworks[0].architecture} " in lines[1]
    chances = [float(re.search(r" ([\d.]+)%", line)[1]) for line in lines[2:5]]
    assert chances == sorted(chances, reverse=True)
    assert sum(chances) == pytest.approx(100, abs=0.2)
    jacobian = r"Jacobian \(1, 3, 3, 16, 16\): [\d.]+ ms, then [\d.]+ ms \(median of 20 calls\)"
    assert re.fullmatch(jacobian, lines[5])
    assert lines[6].startswith("It agrees with finite differences: largest error ")
    assert lines[7] == f"drawn: {folder / 'sensitivity_7.png'}"
    with Image.open(folder / "sensitivity_7.png") as picture:
        assert picture.format == "PNG"
        colours = len(picture.convert("RGB").getcolors(1 << 24))
    assert colours > 200  # a map, not an empty frame
    assert left_in(folder) == ["sensitivity_7.png"]
    (folder / "sensitivity_7.png").unlink()


def test_the_subnetwork_is_the_reports(script, finished):
    run, report, folder = finished
    splits = run.splits
    for row in report.subnetworks:
        network = script.load(folder, row.architecture, 0).network
        ((x, y),) = Ordered(splits.test, splits.mean, splits.std, len(splits.test))
        with torch.no_grad():
            chances = network(x)
        (judged,) = run.evaluate("test", [run.space.decode(row.architecture)])
        assert F.nll_loss(chances.log(), y).item() == pytest.approx(judged.loss, rel=1e-5)
        assert (chances.argmax(1) == y).float().mean().item() == pytest.approx(row.test_accuracy, abs=1e-6)


def test_the_maps_say_what_a_brighter_pixel_does(script, finished):
    _, _, folder = finished
    subject = script.load(folder, None, 2)
    jac, _, _ = script.timed_jacobian(subject)
    maps = script.pixel_maps(jac, subject.std).double()
    network, x = subject.network.double(), subject.x.double()
    for row, column in (5, 5), (9, 12):
        brighter = torch.zeros_like(x)
        brighter[:, :, row, column] = 1e-6 / subject.std.double()  # of all channels, on the scale from 0 to 1
        with torch.no_grad():
            change = (network(x + brighter) - network(x - brighter))[0] / 2e-6
        assert torch.allclose(maps[:, row, column], change, rtol=1e-2, atol=1e-3 * maps.abs().max().item())


def test_architecture_classes_and_place_can_be_chosen(call, finished, tmp_path):
    run, _, folder = finished
    other = run.space.encode(tuple(0 for _ in run.space.slots))
    status, lines, _ = call(folder, "-a", other, "-c", "1", "-o", tmp_path / "one.png")
    assert status == 0
    assert f"subnetwork {other} " in lines[1]
    assert lines[-1] == f"drawn: {tmp_path / 'one.png'}"
    assert [path.name for path in tmp_path.iterdir()] == ["one.png"]
    assert left_in(folder) == []


WRONG = {
    "no such folder": (["{folder}/nowhere"], r"checkpoint=.*/nowhere: does not exist; .*"),
    "no run": (["{empty}"], r"checkpoint=.*: has no checkpoint in it; name the folder of a run of nas-train"),
    "architecture too long": (["{folder}", "-a", "0-0-0-0-0"], r"architecture=.*: must have one entry for each of .*"),
    "no architecture": (["{folder}", "-a", "best"], r"architecture=best: must be one number a slot.*"),
    "no such branch": (["{folder}", "-a", "{beyond}"], r"architecture=.*: entry 9 .*"),
    "image too large": (["{folder}", "-p", "25"], r"image=25: must be .* of the 25 test images; write 0 to 24"),
    "image negative": (["{folder}", "--picture=-1"], r"image=-1: must be .*"),
    "image no number": (["{folder}", "-p", "cat"], r"argument -p/--image/--picture: invalid int .* 'cat'; --help .*"),
    "no class": (["{folder}", "-c", "0"], r"--classes=0: must be at least 1; .*"),
    "no folder for the drawing": (["{folder}", "-o", "{empty}/gone/x.png"], r".*/gone/x\.png.*: No such file .*"),
    "a folder in its place": (["{folder}", "-o", "{taken}"], r".*: Is a directory"),
    "no report": (["{copy}"], r"run=.*: has no report\.json yet, .*; let the run finish, or write .*"),
    "unknown option": (["{folder}", "--loud"], r"unrecognized arguments: --loud; .*"),
    "nothing": ([], r"the following arguments are required: run; .*"),
}


def test_a_mistake_is_one_line_and_leaves_nothing(call, runs, tmp_path):
    run, _, folder = runs[0]
    places = {name: tmp_path / name for name in ("empty", "taken", "copy")}
    for place in places.values():
        place.mkdir()
    newest = max(folder.glob("step_*.safetensors"))
    (places["copy"] / newest.name).write_bytes(newest.read_bytes())
    there, beyond = sorted(tmp_path.rglob("*")), "-".join("9" for _ in run.space.slots)
    for name, (words, message) in WRONG.items():
        with example(name):
            status, lines, err = call(*(word.format(folder=folder, beyond=beyond, **places) for word in words))
            assert status == 1
            assert re.fullmatch(rf"sensitivity: {message}\n", err), err
            assert not any(line.startswith("drawn") for line in lines)
            assert left_in(folder) == []
            assert sorted(tmp_path.rglob("*")) == there


def test_it_runs_as_a_program(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("warnings.showwarning", None)
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(runs[0][2]), "-o", str(tmp_path / "maps.png")])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    assert capsys.readouterr().out.splitlines()[-1] == f"drawn: {tmp_path / 'maps.png'}"
