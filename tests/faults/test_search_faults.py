"""A search whose worker is killed at any stage, or whose disk is full: each architecture once, and the same front."""

import csv
import json
import re
import shutil
import time
from types import SimpleNamespace

import pytest
from PIL import Image
from support.injection import full_disk, killed, operations, stages
from support.processes import FORK, verb
from support.runs import assert_same

from nas.errors import CheckpointError, NasError
from nas.search import Search, read_result, search
from nas.search import report as report_module
from nas.settings import ChainSettings, SearchRunSettings, SearchSettings, SyntheticSettings

CHAIN = ChainSettings(widths=[4], depths=[2], strides=[1], candidates=["skip", "conv1", "conv3"])
"""9 architectures."""


def settings(sampler, **how):
    how = {"objectives": ["synflow", "flops"], "trials": 6, "batch": 2, "threads": 1, "proxy_images": 8, **how}
    data = SyntheticSettings(size=40, image_size=8, classes=3)
    return SearchRunSettings(space=CHAIN, data=data, search=SearchSettings(sampler=sampler, progress=False, **how))


def work(folder, sampler="random"):
    run = Search(settings(sampler), folder)
    try:
        return search(run)
    finally:
        run.study.close()


@pytest.fixture(autouse=True)
def _quick_pictures(monkeypatch):
    """Matplotlib takes most of a small search's time, and what a kill does to a file does not depend on its content."""
    stamp = Image.new("RGB", (2, 2))
    monkeypatch.setattr(report_module, "draw_front", lambda found: None)
    monkeypatch.setattr(report_module, "draw_hypervolume", lambda found: None)
    monkeypatch.setattr(report_module, "png", lambda figure: b"a picture")
    monkeypatch.setattr(report_module, "image", lambda content: stamp)


def what_is_left(folder):
    """All that must not depend on faults: seconds alone may."""
    with (folder / "trials.csv").open() as file:
        trials = [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]
    assert len({row["architecture"] for row in trials}) == len(trials)
    with (folder / "front.csv").open() as file:
        front = [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]
    logs = [json.loads(line) for line in (folder / "journal.log").read_text().splitlines()]
    proposed = [log["architecture"] for log in logs if "architecture" in log]
    return {
        "trials": trials,
        "front": front,
        "result": vars(read_result(folder)),
        "proposed": sorted(proposed),
        "files": sorted(p.name for p in folder.iterdir() if not p.name.startswith("events")),
        "workers": sorted(p.name for p in (folder / "workers").iterdir()),
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """By sampler: what is left of a search that nothing happened to, and what it did to the disk."""
    found = {}
    with pytest.MonkeyPatch.context() as monkeypatch:
        _quick_pictures.__wrapped__(monkeypatch)
        for sampler in ("random", "nsga2"):
            folder = tmp_path_factory.mktemp(sampler)
            done = operations(lambda folder=folder, sampler=sampler: work(folder, sampler))
            found[sampler] = SimpleNamespace(left=what_is_left(folder), done=done)
    assert len(found["random"].left["trials"]) == 6
    return found


def part_of(done, name):
    """The stages of one part: the ``journal``, or the ``report`` that comes after it."""
    begun = next(i for i, text in enumerate(done) if "trials.csv" in text)
    return [stage for stage in stages(done) if (stage[0] < begun) == (name == "journal")]


def check_kills(tmp_path, undisturbed, sampler, chosen):
    done = undisturbed[sampler].done
    for number, stage in enumerate(chosen):
        folder, where = tmp_path / str(number), f"killed at {done[stage[0]]}, {stage}"
        assert killed(lambda folder=folder: work(folder, sampler), *stage), where
        work(folder, sampler)
        assert_same(what_is_left(folder), undisturbed[sampler].left, where)
        shutil.rmtree(folder)


def test_a_worker_killed_at_any_write_of_the_journal_takes_nothing_along(tmp_path, undisturbed):
    chosen = part_of(undisturbed["random"].done, "journal")
    assert len(chosen) > 20
    check_kills(tmp_path, undisturbed, "random", chosen[::2])


def test_a_worker_killed_in_a_genetic_search_does_not_change_what_is_proposed(tmp_path, undisturbed):
    check_kills(tmp_path, undisturbed, "nsga2", part_of(undisturbed["nsga2"].done, "journal")[1::6])


def test_a_worker_killed_while_it_writes_the_report_leaves_it_to_the_next_one(tmp_path, undisturbed):
    chosen = part_of(undisturbed["random"].done, "report")
    check_kills(tmp_path, undisturbed, "random", chosen[::4])


@pytest.mark.parametrize("stage", ["claimed", "evaluating", "told"])
def test_a_running_worker_finishes_what_one_killed_at_any_stage_was_at(tmp_path, undisturbed, stage):
    """Both have begun; the first is killed by the kernel, the second finds its trials."""
    done = undisturbed["random"].done
    writes = [i for i, text in enumerate(done) if text == "write journal.log"]
    # A batch of proposals, a sync, and what the first trial's evaluation found.
    at, half = {"claimed": (writes[0] + 1, False), "evaluating": (writes[1], False), "told": (writes[1], True)}[stage]
    begun, died, survivor = FORK.Event(), FORK.Event(), None

    def survive():
        run = Search(settings("random"), tmp_path)
        begun.set()
        died.wait(60)
        search(run)
        run.study.close()

    survivor = FORK.Process(target=survive)
    survivor.start()
    assert begun.wait(60)
    assert killed(lambda: work(tmp_path), at, half)
    died.set()
    survivor.join(60)
    assert survivor.exitcode == 0
    assert_same(what_is_left(tmp_path), undisturbed["random"].left)


def test_a_disk_that_fills_at_any_write_is_told_and_the_same_search_goes_on(tmp_path, undisturbed):
    done = undisturbed["random"].done
    writes = [i for i, name in enumerate(done) if name.split()[0] in ("write", "replace")]
    for at in writes[::3]:
        folder, where = tmp_path / str(at), f"full at {done[at]}"
        with pytest.raises((NasError, OSError)) as told, full_disk(at):
            work(folder)
        words = str(told.value) if isinstance(told.value, NasError) else f"{told.value.filename} {told.value}"
        assert "No space left on device" in words, where
        assert str(folder) in words, where
        assert not list(folder.glob("*.unfinished")), where
        work(folder)
        assert_same(what_is_left(folder), undisturbed["random"].left, where)
        shutil.rmtree(folder)


def test_a_clock_that_is_set_back_changes_nothing(tmp_path, undisturbed, monkeypatch):
    writes = [i for i, text in enumerate(undisturbed["random"].done) if text == "write journal.log"]
    assert killed(lambda: work(tmp_path), writes[5], False)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 7200)
    work(tmp_path)
    left = what_is_left(tmp_path)
    assert_same(left, undisturbed["random"].left)
    with (tmp_path / "trials.csv").open() as file:
        assert all(float(row["seconds"]) >= 0 for row in csv.DictReader(file))


def test_a_journal_that_was_emptied_beside_its_results_is_refused(tmp_path, undisturbed):
    work(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file() and path.name != "journal.log"}
    (tmp_path / "journal.log").write_bytes(b"")
    words = r"journal=.*journal\.log: is empty, but was not when trials\.csv was written; restore it, delete it"
    with pytest.raises(CheckpointError, match=words):
        work(tmp_path)
    assert {path: path.read_bytes() for path in before} == before
    (tmp_path / "journal.log").unlink()
    work(tmp_path)
    assert_same(what_is_left(tmp_path), undisturbed["random"].left)


def test_an_empty_journal_without_results_is_begun(tmp_path, undisturbed):
    (tmp_path / "journal.log").touch()  # of a process that was killed between making and writing it
    work(tmp_path)
    assert_same(what_is_left(tmp_path), undisturbed["random"].left)


def test_a_flipped_bit_in_any_line_of_a_journal_is_told(tmp_path, undisturbed):
    work(tmp_path)
    path = tmp_path / "journal.log"
    whole = path.read_bytes()
    begins = 0
    for number, line in enumerate(whole.splitlines(keepends=True), 1):
        at = begins + (7 * number) % (len(line) - len('"crc32":1234567890}')) // 2
        begins += len(line)
        for bit in (0, 1):  # a digit stays a digit
            damaged = bytearray(whole)
            damaged[at] ^= 1 << bit
            path.write_bytes(damaged)
            words = rf"journal=.*journal\.log: cannot be read: line {number} is damaged \(.*\); take another run=NAME"
            with pytest.raises(CheckpointError, match=words):
                work(tmp_path)
            assert path.read_bytes() == bytes(damaged)
    path.write_bytes(whole)
    work(tmp_path)
    assert_same(what_is_left(tmp_path), undisturbed["random"].left)


def test_the_command_says_that_the_disk_is_full_in_one_line(tmp_path):
    words = ("space=chain", "space.widths=[4]", "space.depths=[1]", "space.strides=[1]", "data=synthetic")
    words = (
        *words,
        "search.objectives=[synflow]",
        "search.trials=2",
        "search.threads=1",
        "search.proxy_images=8",
        "run=full",
    )
    status, _, err = verb("search", *words, folder=tmp_path, injected=lambda: full_disk(4)).end()
    assert status == 1
    assert re.fullmatch(r"nas-search: \S+/full/journal\.log: No space left on device; make room or .*\n", err), err
    status, _, err = verb("search", *words, folder=tmp_path).end()
    assert (status, err) == (0, "")
