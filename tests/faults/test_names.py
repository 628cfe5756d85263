"""Two runs of one name at once: the second is refused, the first is undisturbed, and a killed one frees the name."""

import errno
import fcntl
import os
import re
import shutil
import signal
import time

import pytest
from support.processes import FORK, verb

from nas.errors import CheckpointError, NasWarning
from nas.files import LOCK, OWNER, lock, only_one

TINY = ("data=synthetic", "data.size=300", "train.threads=1", "track.writers=[]", "run=one")
LONG = ("train.epochs=100", "train.save_every=10")


def hold(folder):
    with only_one(folder):
        time.sleep(60)


@pytest.fixture
def holder(tmp_path):
    """Another process that works in the folder."""
    process = FORK.Process(target=hold, args=(tmp_path,))
    process.start()
    while not (tmp_path / OWNER).is_file() or "since" not in (tmp_path / OWNER).read_text():
        time.sleep(0.001)
    yield process
    process.kill()
    process.join()


def test_the_second_run_is_refused_with_the_owner(tmp_path, holder):
    before = (tmp_path / OWNER).read_bytes()
    words = rf"run={re.escape(str(tmp_path))}: is being worked on by process {holder.pid} on \S+ since \d{{4}}-\S+ .*; "
    for _ in range(2):
        with pytest.raises(CheckpointError, match=words + "wait for it, or take another run=NAME"), only_one(tmp_path):
            pass
    assert (tmp_path / OWNER).read_bytes() == before


def test_a_killed_one_frees_the_name(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    with only_one(tmp_path):
        assert f"process {os.getpid()} on" in (tmp_path / OWNER).read_text()
    assert not list(tmp_path.iterdir())


def test_a_copy_of_the_folder_is_not_locked(tmp_path, holder):
    copy = tmp_path.with_name(tmp_path.name + "-copy")
    shutil.copytree(tmp_path, copy)
    with only_one(copy):
        pass
    assert not list(copy.iterdir())


def test_one_that_ends_leaves_nothing_however_it_ends(tmp_path):
    with pytest.raises(KeyError), only_one(tmp_path):
        raise KeyError
    assert not list(tmp_path.iterdir())


def race(folder, together, rounds):
    together.wait(60)
    for _ in range(rounds):
        with lock(folder / LOCK) as free:
            if free:
                (folder / "at work").mkdir()  # an error if somebody else is
                time.sleep(0)
                (folder / "at work").rmdir()


def test_never_do_two_hold_one_lock(tmp_path):
    together = FORK.Event()
    processes = [FORK.Process(target=race, args=(tmp_path, together, 100)) for _ in range(3)]
    for process in processes:
        process.start()
    together.set()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    words = r"run\.lock: cannot be locked here .*; let one process alone work"
    with pytest.warns(NasWarning, match=words), only_one(tmp_path):
        assert (tmp_path / LOCK).is_file()
    assert not list(tmp_path.iterdir())


def test_a_second_training_waits_for_the_first_one(tmp_path):
    first = verb("train", *TINY, *LONG, folder=tmp_path)
    folder = tmp_path / "outputs" / "train" / "one"
    while not list(folder.glob("step_*.safetensors")):
        assert first.poll() is None, first.end()
        time.sleep(0.01)
    for more in ((), ("architecture='0'",)):  # the second kind trains subnetworks alone
        status, out, err = verb("train", *TINY, *LONG, *more, folder=tmp_path).end()
        assert (status, out) == (1, "")
        assert re.fullmatch(rf"nas-train: run={folder}: is being worked on by process {first.pid} on .*\n", err)
    assert first.poll() is None
    first.kill()
    assert first.end()[0] == -signal.SIGKILL
    assert (folder / LOCK).is_file()
    third = verb("train", *TINY, *LONG, folder=tmp_path)
    while "going on at step" not in third.out():
        assert third.poll() is None
        time.sleep(0.01)
    third.send_signal(signal.SIGTERM)
    status, out, err = third.end()
    assert (status, err) == (143, "")
    assert "stopped by SIGTERM" in out
    assert not (folder / LOCK).exists()
    assert not (folder / OWNER).exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("score", ("space=chain", "data=synthetic", "run=one")),
        ("rank", ("space=chain", "truth=none.csv", "proxies=[synflow]", "run=one")),
    ],
)
def test_second_scores_and_rankings_are_refused_too(tmp_path, name, words):
    folder = tmp_path / "outputs" / name / "one"
    folder.mkdir(parents=True)
    with only_one(folder):
        status, _, err = verb(name, *words, folder=tmp_path).end()
        assert status == 1
        assert re.fullmatch(rf"nas-{name}: run={folder}: is being worked on by process {os.getpid()} on .*\n", err)
    assert not list(folder.iterdir())


def test_a_refused_start_leaves_no_folder(tmp_path):
    status, _, err = verb("train", *TINY, "data.size=1", folder=tmp_path).end()
    assert status == 1
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())
