"""The script that makes a benchmark table: what a row is, that it continues after a stop, and its errors."""

import csv
import importlib.util
import json
import os
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nas.score.benchmark import load_table, table_space
from nas.space import build_space
from nas.train import Run, fit, make_report

SCRIPT = Path(__file__).parent.parent / "scripts" / "make_table.py"
TINY = [
    *("space.widths=[4]", "space.depths=[1]", "space.strides=[1]", "space.candidates=[skip,conv3]"),
    *("data=synthetic", "data.size=120", "data.image_size=16", "data.classes=3", "data.train_images=0"),
    *("train.epochs=1", "train.batch_size=16"),
]


MARKED = 0.4321
"""An accuracy that no training has: it would be gone if that training were done again."""


def load():
    spec = importlib.util.spec_from_file_location("make_table", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_table = load()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A table of 2 architectures and 2 seeds; the script was killed while it noted the last training, and went on."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("table") / "tiny.csv"
    settings = make_table.compose([*make_table.DEFAULTS, *TINY])
    done = [make_table.train_one((settings, text, 0)) for text in "01"]
    journal, _ = make_table.resume(out, make_table.head_of(settings))
    for text, seed, found in (*done, ("0", 1, {"accuracy": MARKED})):
        journal.append({"architecture": text, "seed": seed, **found})
    with journal.path.open("a") as file:
        file.write('{"architecture": "1", "se')
    words = [*TINY, "--seeds", "2", "--workers", "1", "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, SCRIPT, *words], capture_output=True, text=True, env=environment, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    assert f"2 architectures, 2 seeds: {out}" in ended.stdout
    return out


def kept(out):
    head, *lines = map(json.loads, out.with_suffix(".jsonl").read_text().splitlines())
    return head, {(line["architecture"], line["seed"]): line["accuracy"] for line in lines}


def curves_of(out):
    """By architecture and seed: training losses and validation accuracies."""
    with out.with_name(f"{out.stem}_curves.csv").open() as file:
        rows = list(csv.reader(line for line in file if not line.startswith("#")))
    assert rows[0] == ["architecture", "seed", "train_loss_1", "val_accuracy_1"]
    return {(text, int(seed)): (float(loss), float(accuracy)) for text, seed, loss, accuracy in rows[1:]}


def test_the_table_can_be_ranked_against(made):
    space = table_space(str(made))
    truth = load_table(str(made), build_space(space, 3, 16, 3), space)
    assert truth.architectures == [(0,), (1,)]
    assert truth.accuracies.shape == (2, 2)
    _, found = kept(made)
    for k, text in enumerate("01"):
        assert truth.accuracies[k].tolist() == [pytest.approx(found[text, seed], abs=5.1e-5) for seed in (0, 1)]
    assert truth.settings["train"]["epochs"] == 1
    assert truth.settings["data"]["name"] == "synthetic"


def test_a_row_is_what_nas_train_reports(made, tmp_path):
    for text, seed in (("1", 1), ("0", 0)):
        settings = make_table.compose([
            *make_table.DEFAULTS, *TINY, "gate=fixed", f"gate.architecture='{text}'", f"seed={seed}",
            "evaluate.recalibrate=false", "track.progress=false", "track.writers=[]", "track.log_every=6",
        ])  # fmt: skip
        run = Run(settings, tmp_path / text)
        fit(run)
        report = make_report(run)
        run.tracker.writer.close()
        assert run.steps_per_epoch == 6
        points = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
        loss, accuracy = points[0]["train/loss"], points[1]["overview/accuracy_mean"]
        assert curves_of(made)[text, seed] == (pytest.approx(loss, abs=5.1e-5), pytest.approx(accuracy, abs=5.1e-5))
        assert [row.test_accuracy for row in report.subnetworks] == [kept(made)[1][text, seed]]


def test_a_stopped_table_trains_nothing_twice(made):
    head, found = kept(made)
    assert list(found) == [("0", 0), ("1", 0), ("0", 1), ("1", 1)]
    assert found["0", 1] == MARKED
    assert "0.4321" in made.read_text()
    assert list(curves_of(made)) == [("0", 0), ("1", 0), ("1", 1)]  # that one has none
    assert head["definition"]["train"]["epochs"] == 1


def test_a_training_that_fails_says_which_and_why():
    settings = make_table.compose([*make_table.DEFAULTS, *TINY, "optimizer.lr=1e30"])
    text, seed, reason = make_table.train_one((settings, "1", 2))
    assert (text, seed) == ("1", 2)
    assert "the loss is nan" in reason
    settings = make_table.compose([*make_table.DEFAULTS, *TINY, "data.crop=99"])
    assert make_table.train_one((settings, "1", 2))[2].startswith("data.crop=99: must be smaller")


def test_images_are_loaded_once_a_seed():
    settings = make_table.compose([*make_table.DEFAULTS, *TINY])
    first = make_table.parts(settings, 0)[1]
    assert make_table.parts(settings, 0)[1] is first
    assert make_table.parts(settings, 1)[1] is not first
    other = replace(settings, data=replace(settings.data, size=150))
    assert len(make_table.parts(other, 1)[1].train) > len(first.train)


WRONG = {
    "--seeds 0": "--seeds=0: must be at least 1; write --seeds 3",
    "--first-seed -1": "--first-seed=-1: must be at least 0; write --first-seed 0",
    "--networks 3": "--networks=3: must be from 1 to 2; leave it out for all of the space",
    "--workers 0": "--workers=0: must be at least 1; write --workers 2",
    "space.depths=[13]": "space=chain: a table trains each of its architectures; this space has 8,192, at most 4,096",
    "train.epoch=3": "train.epoch=3: there is no setting",
    "data=folder data.root=/nowhere": "data.root=/nowhere: does not exist",
    "train.epochs=2": "begun.jsonl: was begun with other settings (train.epochs: 1 -> 2); take another --out, or the",
    "--out foreign.csv": "foreign.jsonl: cannot be read: line 1 is damaged",
}


def test_a_mistake_is_one_line_and_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    head = make_table.head_of(make_table.compose([*make_table.DEFAULTS, *TINY]))
    journal, _ = make_table.resume(tmp_path / "begun.csv", head)
    journal.append({"architecture": "0", "seed": 0, "accuracy": 0.5})
    (tmp_path / "foreign.jsonl").write_text("[1, 2\n")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(make_table.multiprocessing, "get_context", lambda _: pytest.fail("work was begun"))
    for words, line in WRONG.items():
        given = [word for word in TINY if not ("folder" in words and word.startswith("data"))]
        monkeypatch.setattr(sys, "argv", ["make_table", *given, "--out", "begun.csv", *words.split()])
        with pytest.raises(SystemExit) as stop:
            make_table.main()
        assert str(stop.value).startswith("make_table: "), words
        assert line in str(stop.value)
        assert "\n" not in str(stop.value)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before, words


def test_a_whole_table_is_written_without_training(made, tmp_path, monkeypatch):
    out = tmp_path / "whole.csv"
    out.with_suffix(".jsonl").write_bytes(made.with_suffix(".jsonl").read_bytes())
    monkeypatch.setattr(make_table, "train_one", lambda task: pytest.fail("trained"))
    asked = {"overrides": TINY, "seeds": 2, "first_seed": 0, "networks": 0, "workers": 1, "out": out}
    make_table.make(Namespace(**asked))
    assert out.read_bytes() == made.read_bytes()
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["whole.csv", "whole.jsonl", "whole_curves.csv"]
    lines = out.read_text().splitlines()
    make_table.make(Namespace(**{**asked, "networks": 1}))
    part = out.read_text().splitlines()
    assert len(part) == len(lines) - 1
    assert {*part} < {*lines}
