"""``torchrun -m nas.cli.train``: a run on two processes, what is refused there, and what happens where one dies."""

import json
import re
import shlex
import signal
import socket
import time

import pytest
from support.runs import assert_same

from nas import checkpoint

TOTAL = 12


def said(err):
    """Our own lines on standard error, without torchrun's."""
    return [line for line in err.splitlines() if line.startswith("nas-train")]


def ended(process):
    return process.end()


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
    return [[line.get(name) for name in ("step", "train/loss", "train/accuracy", "val/accuracy")] for line in lines]


def test_a_killed_rank_is_restarted_and_the_run_ends_as_if_undisturbed(torchrun, small, tmp_path, undisturbed):
    whole, out = undisturbed
    lines = out.splitlines()
    # Rank 0 alone speaks, writes and draws.
    assert lines[0] == f"custom: 6 architectures, 12 steps, on 2 processes, cpu; {whole}"
    assert [line.split()[1] for line in lines if line.startswith("epoch")] == ["1/3", "2/3", "3/3"]
    assert re.fullmatch(r"[\d,]+ images/s on cpu, 2 processes of 1 thread", lines[-3])
    assert len(list(whole.glob("events*"))) == 1
    assert json.loads((whole / "report.json").read_text())["processes"] == 2

    for rank, step in ((1, 6), (0, 9)):
        folder = tmp_path / "outputs" / "train" / f"killed{rank}"
        status, out, err = ended(torchrun(*small, f"run={folder.name}", fault=f"kill:{rank}:{step}", restarts=1))
        assert status == 0, err
        saved = (step - 1) // 2 * 2  # the step numbered from 1 in which it died had not been made
        assert f"going on at step {saved} of 12" in out
        (lost,) = said(err)
        assert lost.startswith(f"nas-train: rank {1 - rank}: processes=2: lost contact with the other processes (")
        assert_same_end(folder, whole)


def test_two_machines_find_each_other_again_after_a_rank_was_killed(torchrun, small, tmp_path, undisturbed):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    how = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{port}"]
    agents = [torchrun(*small, "run=machines", fault="kill:1:6", restarts=2, how=how) for _ in range(2)]
    texts = [ended(agent) for agent in agents]
    assert [status for status, *_ in texts] == [0, 0], texts
    assert "going on at step 4 of 12" in texts[0][1] + texts[1][1]
    assert_same_end(tmp_path / "outputs" / "train" / "machines", undisturbed[0])


@pytest.mark.parametrize(("what", "rank"), [("raise", 1), ("refuse", 1), ("refuse", 0)])
def test_an_error_on_any_rank_ends_all_of_them_with_its_message(torchrun, small, tmp_path, what, rank):
    process = torchrun(*small, "run=failing", fault=f"{what}:{rank}:4")
    while not list(tmp_path.rglob("step_*.safetensors")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    began = time.monotonic()
    status, _, err = ended(process)
    assert time.monotonic() - began < 30
    assert status == 1
    if what == "refuse":
        assert said(err) == [f"nas-train: rank {rank}: data.root=here: is gone; bring it back"]
    else:
        assert said(err) == []
        assert err.count("RuntimeError: a mistake in the network") == 1
    assert newest(tmp_path / "outputs" / "train" / "failing")["step"] == 2


def test_a_rank_that_is_told_to_stop_stops_all_and_the_printed_command_goes_on(torchrun, small, tmp_path, undisturbed):
    status, out, err = ended(torchrun(*small, "run=stopped", fault="stop:1:5"))
    assert (status, said(err)) == (1, []), err
    command = f"torchrun --nproc-per-node=2 ... -m nas.cli.train {shlex.join(small)} run=stopped"
    # In its fifth step it had told the others already that it goes on: all stop after the sixth.
    assert out.splitlines()[-1] == f"stopped by SIGTERM at step 6, saved; to go on, the same command: {command}"
    status, out, err = ended(torchrun(*small, "run=stopped"))
    assert status == 0, err
    assert "going on at step 6 of 12" in out
    assert_same_end(tmp_path / "outputs" / "train" / "stopped", undisturbed[0])


def test_ctrl_c_of_torchrun_saves(torchrun, small, tmp_path):
    process = torchrun(*small, "run=stopped", "train.epochs=500", "evaluate.every_epochs=500")
    while not list(tmp_path.rglob("step_*.safetensors")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, out, err = ended(process)
    step = int(re.search(r"stopped by SIGINT at step (\d+), saved; to go on, the same command: torchrun", out)[1])
    assert said(err) == []
    assert newest(tmp_path / "outputs" / "train" / "stopped")["step"] == step


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["train.epochs=1"],
            "run=(none): must be given under torchrun: the default is the time, another one in ",
        ),
        (
            ["--multi", "run=x", "seed=1,2"],
            "flag=-m: starts several runs, but under torchrun all processes train one; ",
        ),
        (["run=x", "trian.epochs=1"], "trian.epochs=1: there is no setting trian; choose one of "),
        (
            ["run=x", "data=synthetic", "train.batch_size=65"],
            "train.batch_size=65: must be a multiple of the 2 processes, with 2 pictures or more for each; write ",
        ),
        (["run=x", "architecture=0"], "architecture=0: trains its networks in one process; leave torchrun out"),
    ],
    ids=["no run", "sweep", "unknown key", "uneven batch", "retraining"],
)
def test_what_is_refused_is_said_once_and_leaves_nothing(torchrun, tmp_path, words, line):
    status, out, err = ended(torchrun(*words))
    (only,) = said(err)
    assert re.sub(r"rank \d: ", "", only).startswith(f"nas-train: {line}"), only
    assert (status, out) == (1, "")
    assert not (tmp_path / "outputs").exists()


def test_a_second_run_of_the_name_is_refused_by_all_its_ranks(torchrun, small, tmp_path):
    first = torchrun(*small, "run=one", "train.epochs=500", "evaluate.every_epochs=500")
    while not list(tmp_path.rglob("step_*.safetensors")):
        assert first.poll() is None, first.communicate()
        time.sleep(0.01)
    status, out, err = ended(torchrun(*small, "run=one", "train.epochs=500", "evaluate.every_epochs=500"))
    (only,) = said(err)
    assert only.startswith("nas-train: rank 0: run=")
    assert "take another run=NAME" in only
    assert (status, out) == (1, "")
    assert first.poll() is None
    first.send_signal(signal.SIGTERM)
    assert "saved; to go on" in ended(first)[1]
