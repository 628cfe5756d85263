"""``torchrun -m nas.cli.train``: a run on two processes, what is refused there, and what happens if one dies.

Runs that do not depend on each other are started at once: most of their time is waiting for each other's messages.
"""

import json
import os
import re
import shlex
import signal
import socket
import time
from contextlib import contextmanager

from support.processes import Started
from support.runs import assert_same

import nas.dist.join
from nas import checkpoint
from nas.dist.join import joined
from nas.errors import DataError

TOTAL = 12


def said(err):
    """Our own lines on standard error, without torchrun's."""
    return [line for line in err.splitlines() if line.startswith("nas-train")]


def newest(folder):
    return checkpoint.load(checkpoint.saved(folder)[0])


def assert_same_end(left, right):
    """Two runs have the same network, moments, gate and curves."""
    a, b = newest(left), newest(right)
    assert a["step"] == b["step"] == TOTAL
    assert_same({k: a[k] for k in ("model", "optimizer", "gate")}, {k: b[k] for k in ("model", "optimizer", "gate")})
    assert curves(left) == curves(right)


def curves(folder):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [
        [line.get(name) for name in ("step", "train/loss", "train/accuracy", "overview/accuracy_mean")]
        for line in lines
    ]


@contextmanager
def slow_to_speak():
    """A process that fails finds out whether it is the first, and gets torchrun's SIGTERM before it can say why."""
    first_to_fail = nas.dist.join._first_to_fail

    def slow(store):
        first = first_to_fail(store)
        time.sleep(first)
        os.kill(os.getpid(), signal.SIGTERM)
        return first

    nas.dist.join._first_to_fail = slow
    yield


def test_rank_0_alone_speaks_writes_and_draws(undisturbed):
    folder, out = undisturbed
    lines = out.splitlines()
    assert lines[0] == f"custom: 6 architectures, 12 steps, on 2 processes, cpu; {folder}"
    assert [line.split()[1] for line in lines if line.startswith("epoch")] == ["1/3", "2/3", "3/3"]
    assert re.fullmatch(r"[\d,]+ images/s on cpu, 2 processes of 1 thread", lines[-3])
    assert len(list(folder.glob("events*"))) == 1
    assert json.loads((folder / "report.json").read_text())["processes"] == 2


def test_a_killed_rank_restarts_and_nothing_is_lost(torchrun, small, tmp_path, undisturbed):
    """On one machine, whichever rank it is, and on two machines, which have to find each other again."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    apart = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{port}"]
    killed = {
        (rank, step): torchrun(
            *small, f"run=killed{rank}", fault=f"kill:{rank}:{step}", restarts=1, injected=slow_to_speak
        )
        for rank, step in ((1, 6), (0, 9))
    }
    machines = [torchrun(*small, "run=machines", fault="kill:1:6", restarts=2, how=apart) for _ in range(2)]
    for (rank, step), process in killed.items():
        status, out, err = process.end()
        assert status == 0, err
        saved = (step - 1) // 2 * 2  # the step numbered from 1 in which it died had not been made
        assert f"going on at step {saved} of 12" in out
        (lost,) = said(err)
        assert lost.startswith(f"nas-train: rank {1 - rank}: processes=2: lost contact with the other processes (")
        assert_same_end(tmp_path / "outputs" / "train" / f"killed{rank}", undisturbed[0])
    ends = [process.end() for process in machines]
    assert [status for status, *_ in ends] == [0, 0], ends
    assert "going on at step 4 of 12" in ends[0][1] + ends[1][1]
    assert_same_end(tmp_path / "outputs" / "train" / "machines", undisturbed[0])


def test_any_ranks_error_ends_all_with_its_message(torchrun, small, tmp_path):
    cases = [("raise", 1), ("refuse", 1), ("refuse", 0)]
    started = [
        torchrun(*small, f"run={what}{rank}", fault=f"{what}:{rank}:4", injected=slow_to_speak) for what, rank in cases
    ]
    for (what, rank), process in zip(cases, started, strict=True):
        status, _, err = process.end()
        assert status == 1, (what, rank)
        if what == "refuse":
            assert said(err) == [f"nas-train: rank {rank}: data.root=here: is gone; bring it back"]
        else:
            assert re.fullmatch(r"nas-train: Net.fault in .*RuntimeError: a mistake in the network", *said(err))
            assert err.count("RuntimeError: a mistake in the network") == 1
        assert newest(tmp_path / "outputs" / "train" / f"{what}{rank}")["step"] == 2, (what, rank)


def test_a_set_up_error_is_told_despite_torchrun(torchrun):
    status, out, err = torchrun("space=chain", "data=folder", "data.root=gone", "run=x", injected=slow_to_speak).end()
    (only,) = said(err)
    assert re.fullmatch(r"nas-train: rank [01]: data\.root=\S*gone: .+; .+", only), only
    assert (status, out) == (1, "")


def in_set_up(error):
    """One process that has joined, and fails before its training; the SIGTERM comes before it can say why."""
    with slow_to_speak(), joined("cpu", 60):
        raise error


def test_a_rank_failing_in_set_up_says_why(tmp_path):
    refused, full = DataError("data.root", "here", "is gone", "bring it back"), OSError(28, "No space left", "there")
    for error, line in (
        (refused, "rank 0: data.root=here: is gone; bring it back"),
        (full, "rank 0=there: No space left; make room, and start the same command again"),
    ):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            alone = {
                "RANK": "0",
                "WORLD_SIZE": "1",
                "MASTER_ADDR": "localhost",
                "MASTER_PORT": str(free.getsockname()[1]),
            }
        status, _, err = Started(in_set_up, error, folder=tmp_path, environment=alone).end()
        assert status == 1, err
        assert line in err


def test_one_stopped_rank_stops_all_and_all_resume(torchrun, small, tmp_path, undisturbed):
    status, out, err = torchrun(*small, "run=stopped", fault="stop:1:5").end()
    assert (status, said(err), bool(out)) == (1, [], True), err
    command = f"torchrun --nproc-per-node=2 ... -m nas.cli.train {shlex.join(small)} run=stopped"
    # In its fifth step it had told the others already that it goes on: all stop after the sixth.
    assert out.splitlines()[-1] == f"stopped by SIGTERM at step 6, saved; to go on, the same command: {command}"
    status, out, err = torchrun(*small, "run=stopped").end()
    assert status == 0, err
    assert "going on at step 6 of 12" in out
    assert_same_end(tmp_path / "outputs" / "train" / "stopped", undisturbed[0])


def test_a_namesake_is_refused_and_ctrl_c_saves(torchrun, small, tmp_path):
    words = (*small, "run=one", "train.epochs=5000", "evaluate.every_epochs=5000")
    first, folder = torchrun(*words), tmp_path / "outputs" / "train" / "one"
    while not list(folder.glob("step_*.safetensors")):
        assert first.poll() is None, first.end()
        time.sleep(0.01)
    status, out, err = torchrun(*words).end()
    (only,) = said(err)
    assert only.startswith("nas-train: rank 0: run=")
    assert "take another run=NAME" in only
    assert (status, out) == (1, "")
    assert first.poll() is None
    first.send_signal(signal.SIGINT)
    _, out, err = first.end()
    step = int(re.search(r"stopped by SIGINT at step (\d+), saved; to go on, the same command: torchrun", out)[1])
    assert said(err) == []
    assert newest(folder)["step"] == step


REFUSED = [
    (["train.epochs=1"], "run=(none): must be given under torchrun: the default is the time, another one in "),
    (["--multi", "run=x", "seed=1,2"], "flag=-m: starts several runs, but under torchrun all processes train one; "),
    (["run=x", "trian.epochs=1"], "trian.epochs=1: there is no setting trian.epochs; did you mean train.epochs?"),
    (
        ["run=x", "data=synthetic", "train.batch_size=65"],
        "train.batch_size=65: must be a multiple of the 2 processes, with 2 ",
    ),
    (["run=x", "architecture=0"], "architecture=0: trains its networks in one process; leave torchrun out"),
]


def test_a_refusal_is_said_once_and_leaves_nothing(torchrun, tmp_path):
    for (words, line), process in [(case, torchrun(*case[0])) for case in REFUSED]:
        status, out, err = process.end()
        (only,) = said(err)
        assert re.sub(r"rank \d: ", "", only).startswith(f"nas-train: {line}"), only
        assert (status, out) == (1, ""), words
    assert not (tmp_path / "outputs").exists()
