"""nas-score, nas-rank, nas-export and make_table killed in the middle, or on a full disk: the same command goes on."""

import csv
import json
import multiprocessing
import os
import re
import runpy
import shutil
import signal
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from support.injection import full_disk, killed, operations, stages
from support.processes import FORK, Started, verb
from support.runs import CHAIN, assert_same, finish, tiny

import nas.export.write as export_module
from nas.checkpoint import load_trained
from nas.errors import CheckpointError, NasError
from nas.export import export
from nas.export.load import load
from nas.files import UNFINISHED
from nas.rank import KnownValues, load_target, predict, rank
from nas.rank.report import write_report
from nas.score.run import ScoreRun
from nas.settings import ChainSettings, RankRunSettings, RankSettings, ScoreSettings, SyntheticSettings
from nas.space import build_space

SCORES = ScoreSettings(
    space=ChainSettings(widths=[4], depths=[2], strides=[1], candidates=["skip", "conv1", "conv3"]),
    data=SyntheticSettings(size=40, image_size=8, classes=3),
    proxies=["synflow", "naswot"],
    architectures=4,
    batch_size=4,
    progress=False,
)
SPACE = build_space(CHAIN, 3, 16, 3)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A trained supernet, and a benchmark table for its space."""
    torch.set_num_threads(1)
    place = tmp_path_factory.mktemp("made")
    finish(tiny(epochs=1), place / "trained")
    rows = [f"{SPACE.encode(a)},{40 + 5 * sum(a)},{41 + 4.9 * sum(a)}" for a in SPACE.enumerate()]
    (place / "table.csv").write_text("\n".join(["architecture,a,b", *rows]) + "\n")
    return place


def score(folder):
    folder.mkdir(exist_ok=True)
    run = ScoreRun(SCORES, folder)
    list(run)
    run.write()


def scored(folder):
    lines = [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]
    assert len(lines) == 1 + SCORES.architectures
    with (folder / "scores.csv").open() as file:
        return sorted(path.name for path in folder.iterdir()), [row[:-1] for row in csv.reader(file)]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """The image and the noise model of a ranking take the most time, and write nothing."""
    monkeypatch.setattr("nas.rank.report.scatter", lambda *_: bytes(24))  # the size is read from the last of them
    monkeypatch.setattr("nas.score.noise.TABLES", 2)


def ranker(made):
    how = RankSettings(tensorboard=False, progress=False, proxy_images=8, threads=1)
    truth = str(made / "table.csv")
    settings = RankRunSettings(space=CHAIN, truth=truth, proxies=["synflow"], rank=how, data=tiny().data)
    target = load_target(settings)

    def work(folder):
        folder.mkdir(exist_ok=True)
        predictions = predict(target, settings, KnownValues(folder))
        ranking = rank(predictions, target.truth, settings.seed)
        write_report(folder, settings, target, predictions, ranking)

    return work


def ranked(folder):
    lines = (folder / "journal.jsonl").read_text().splitlines()
    others = [path for path in folder.iterdir() if not path.name.startswith("events") and path.suffix != ".jsonl"]
    return sorted(lines), {path.name: path.read_bytes() for path in others}


@pytest.mark.parametrize("verb", ["score", "rank"])
def test_faults_at_any_write_change_no_result(tmp_path, made, sample, verb):
    work, left = {"score": (score, scored), "rank": (ranker(made), ranked)}[verb]
    whole = tmp_path / "whole"
    done = operations(lambda: work(whole))
    assert sum("jsonl" in name for name in done) > 3
    for at, half in sample(stages(done), 6):
        folder, where = tmp_path / "faulty", f"{done[at]}, {(at, half)}"
        if half:  # killed in the middle of each write, and before each other operation
            assert killed(partial(work, folder), at, half), where
        else:
            folder.mkdir()
            before = operations(lambda: None)
            with full_disk(at):
                try:
                    work(folder)
                except (NasError, OSError) as error:
                    before = error
            assert "No space left" in str(before) or done[at].startswith("unlink"), where
            assert not list(folder.glob("*" + UNFINISHED)), where
        work(folder)
        assert left(folder) == left(whole), where
        shutil.rmtree(folder)


@pytest.mark.parametrize(("verb", "result"), [("score", "scores.csv"), ("rank", "rank.csv")])
def test_an_emptied_journal_beside_results_is_refused(tmp_path, made, verb, result):
    work = {"score": score, "rank": ranker(made)}[verb]
    journal = tmp_path / {"score": "scores.jsonl", "rank": "journal.jsonl"}[verb]
    journal.touch()
    work(tmp_path)  # of a process that was killed between making and writing it
    journal.write_bytes(b"")
    with pytest.raises(CheckpointError, match=rf"is empty, but was not when {result} was written; restore it"):
        work(tmp_path)


def test_a_killed_export_leaves_no_folder(tmp_path, made):
    trained = load_trained(made / "trained")
    architecture = trained.space.decode("1-2")
    export(trained, architecture, tmp_path / "whole", program=False)
    done = operations(lambda: export(trained, architecture, tmp_path / "again", program=False))
    chosen = [i for i, name in enumerate(done) if name.split()[0] in ("fsync", "replace")]
    assert len(chosen) > 4
    parts = ("write_weights", "readme", "load")  # what writes by itself: killed before, with everything before it there
    for number, where in enumerate([*chosen, *parts]):
        folder = tmp_path / str(number)
        with pytest.MonkeyPatch.context() as patch:
            if isinstance(where, str):
                patch.setattr(export_module, where, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
            at = where if isinstance(where, int) else 10**6
            assert killed(partial(export, trained, architecture, folder, program=False), at, False)
        renamed = isinstance(where, int) and where > max(i for i, name in enumerate(done) if "replace" in name)
        assert folder.exists() == renamed, where
        if not renamed:
            export(trained, architecture, folder, program=False)
        assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in (tmp_path / "whole").iterdir()), where
        assert not list(tmp_path.glob("*" + UNFINISHED))
        assert_same(load(folder).state_dict(), load(tmp_path / "whole").state_dict())  # all digests agree with the card


def test_an_export_onto_a_full_disk_leaves_nothing(tmp_path, made):
    words = (f"checkpoint={made / 'trained'}", "architecture='1-2'", "program=false", "threads=1", "run=one")
    status, _, err = verb("export", *words, folder=tmp_path, injected=lambda: full_disk(2)).end()
    assert status == 1
    assert re.fullmatch(r"nas-export: \S+: No space left on device; make room or take another folder.*\n", err), err
    assert not list(tmp_path.rglob("*"))
    assert verb("export", *words, folder=tmp_path).end()[0] == 0


SCRIPT = Path(__file__).parents[2] / "scripts" / "make_table.py"
TABLE = ("space.widths=[4]", "space.depths=[3]", "space.strides=[1]", "space.candidates=[skip,conv3]", "data=synthetic")
TABLE = (*TABLE, "data.size=600", "data.image_size=16", "data.classes=3", "data.train_images=0", "train.epochs=20")


def make_table(*words):
    """The script with these words; its workers are forked, so that they need not import torch."""
    sys.argv, multiprocessing.get_context = ["make_table", *words], lambda _: FORK
    runpy.run_path(str(SCRIPT), run_name="__main__")


def wait_until(true, process):
    while not true():
        assert process.poll() is None, process.end()
        time.sleep(0.02)


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"  # dead, and nobody has waited for it
    except OSError:
        return False


@pytest.mark.parametrize("victim", ["worker", "parent"])
def test_a_table_with_killed_processes_says_so(tmp_path, victim):
    process = Started(make_table, *TABLE, "--workers", "1", "--out", str(tmp_path / "t.csv"), folder=tmp_path)
    journal, children = tmp_path / "t.jsonl", Path(f"/proc/{process.pid}/task/{process.pid}/children")
    wait_until(lambda: journal.is_file() and journal.read_text().count("\n") > 1, process)  # one training is noted
    (worker,) = map(int, children.read_text().split())
    os.kill(worker if victim == "worker" else process.pid, signal.SIGKILL)
    status, _, err = process.end()
    if victim == "worker":
        assert status == 1
        words = "make_table: --workers=1: a training process was killed, as a rule for want of memory; what is done"
        assert err.splitlines()[-1].startswith(words), err
    else:
        while is_running(worker):
            time.sleep(0.05)
        assert "Traceback" not in process.err()
