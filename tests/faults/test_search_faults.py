"""A search whose worker is killed at any stage, or whose disk is full: each architecture once, and the same front."""

import csv
import json
import re
import shutil
import time
from io import BytesIO
from types import SimpleNamespace

import pytest
from PIL import Image
from support.injection import full_disk, killed, operations, stages
from support.processes import FORK, TIMEOUT_S, verb
from support.runs import assert_same

import nas.search.report
from nas.errors import CheckpointError, NasError
from nas.search import Search, read_result, search
from nas.settings import ChainSettings, SearchRunSettings, SearchSettings, SyntheticSettings

CHAIN = ChainSettings(widths=[4], depths=[2], strides=[1], candidates=["skip", "conv1", "conv3"])
"""9 architectures."""
SEARCH = SearchSettings("random", trials=5, objectives=["parameters", "flops"], batch=2, threads=1, progress=False)
SETTINGS = SearchRunSettings(space=CHAIN, data=SyntheticSettings(size=40, image_size=8, classes=3), search=SEARCH)


def work(folder):
    run = Search(SETTINGS, folder)
    try:
        return search(run)
    finally:
        run.study.close()


@pytest.fixture(autouse=True)
def _quick_images(monkeypatch):
    """Matplotlib takes most of a small search's time, and what a kill does to a file does not depend on its content."""
    png = BytesIO()
    Image.new("RGB", (2, 2)).save(png, "PNG")
    drawn = {"front": png.getvalue(), "hypervolume": png.getvalue()}
    monkeypatch.setattr(nas.search.report, "images", lambda outcome: drawn)


def rows(path):
    with path.open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def what_is_left(folder):
    """All that must not depend on faults: seconds alone may."""
    logs = [json.loads(line) for line in (folder / "journal.log").read_text().splitlines()]
    trials = rows(folder / "trials.csv")
    assert len({row["architecture"] for row in trials}) == len(trials)
    return {
        "trials": trials,
        "front": rows(folder / "front.csv"),
        "result": vars(read_result(folder)),
        "proposed": sorted(log["architecture"] for log in logs if "architecture" in log),
        "files": sorted(p.name for p in folder.iterdir() if not p.name.startswith("events")),
        "workers": sorted(p.name for p in (folder / "workers").iterdir()),
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What is left of a search that nothing happened to, and what it did to the disk."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as monkeypatch:
        _quick_images.__wrapped__(monkeypatch)
        done = operations(lambda: work(folder))
    left = what_is_left(folder)
    assert len(left["trials"]) == 5
    return SimpleNamespace(
        left=left, done=done, tells=[i for i, name in enumerate(done) if name == "write journal.log"]
    )


@pytest.mark.parametrize("part", ["journal", "report"])
def test_a_worker_killed_at_any_write_loses_nothing(tmp_path, undisturbed, part):
    done = undisturbed.done
    report = next(i for i, text in enumerate(done) if "trials.csv" in text)
    chosen = [stage for stage in stages(done) if (stage[0] < report) == (part == "journal")]
    assert len(chosen) > 15
    for stage in chosen[::2] if part == "journal" else chosen[::6]:
        where = f"killed at {done[stage[0]]}, {stage}"
        assert killed(lambda: work(tmp_path / "killed"), *stage), where
        work(tmp_path / "killed")
        assert_same(what_is_left(tmp_path / "killed"), undisturbed.left, where)
        shutil.rmtree(tmp_path / "killed")


def test_a_running_worker_finishes_a_killed_ones_trials(tmp_path, undisturbed):
    """Both have begun; the first is killed by the kernel, the second finds its trials. Its clock is set back."""
    proposed, told = undisturbed.tells[:2]
    for stage, at in {"claimed": (proposed + 1, False), "evaluating": (told, False), "telling": (told, True)}.items():
        begun, died, folder = FORK.Event(), FORK.Event(), tmp_path / stage

        def survive(begun=begun, died=died, folder=folder):
            run, real = Search(SETTINGS, folder), time.time
            begun.set()
            died.wait(TIMEOUT_S)
            time.time = lambda: real() - 7200
            search(run)
            run.study.close()

        survivor = FORK.Process(target=survive)
        survivor.start()
        assert begun.wait(TIMEOUT_S)
        assert killed(lambda folder=folder: work(folder), *at), stage
        died.set()
        survivor.join(TIMEOUT_S)
        assert survivor.exitcode == 0, stage
        assert_same(what_is_left(folder), undisturbed.left, stage)
        with (folder / "trials.csv").open() as file:
            assert all(float(row["seconds"]) >= 0 for row in csv.DictReader(file))


def test_a_full_disk_is_told_and_search_resumes(tmp_path, undisturbed):
    done, folder = undisturbed.done, tmp_path / "full"
    writes = [i for i, name in enumerate(done) if name.split()[0] in ("write", "replace")]
    for at in writes[::3]:
        where = f"full at {done[at]}"
        with pytest.raises((NasError, OSError)) as told, full_disk(at):
            work(folder)
        words = str(told.value) if isinstance(told.value, NasError) else f"{told.value.filename} {told.value}"
        assert "No space left on device" in words, where
        assert str(folder) in words, where
        assert not list(folder.glob("*.unfinished")), where
        work(folder)
        assert_same(what_is_left(folder), undisturbed.left, where)
        shutil.rmtree(folder)


def test_a_damaged_or_empty_journal_is_refused_unchanged(tmp_path, undisturbed):
    (tmp_path / "journal.log").touch()  # of a process that was killed between making and writing it
    work(tmp_path)
    assert_same(what_is_left(tmp_path), undisturbed.left)
    journal = tmp_path / "journal.log"
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    for content, words in (
        (b"", r"is empty, but was not when trials\.csv was written; restore it, delete it"),
        (before[journal].replace(b'"trial": 1', b'"trial": 3', 1), r"cannot be read: line 3 is damaged"),
    ):
        journal.write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"journal=.*journal\.log: {words}"):
            work(tmp_path)
        assert {path: path.read_bytes() for path in before} == {**before, journal: content}
    journal.unlink()
    work(tmp_path)
    assert_same(what_is_left(tmp_path), undisturbed.left)


def test_the_command_reports_full_disks_in_one_line(tmp_path):
    words = ("space=chain", "space.widths=[4]", "space.depths=[1]", "space.strides=[1]", "data=synthetic", "run=full")
    words = (*words, "search.objectives=[parameters]", "search.trials=2", "search.threads=1", "data.size=40")
    status, _, err = verb("search", *words, folder=tmp_path, injected=lambda: full_disk(1)).end()
    assert status == 1
    assert re.fullmatch(r"nas-search: \S+/full/journal\.log: No space left on device; make room or .*\n", err), err
    assert verb("search", *words, folder=tmp_path).end()[0::2] == (0, "")
