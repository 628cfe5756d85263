"""What a run prints, how it is stopped, and that the same command goes on with it."""

import json
import os
import re
import resource
import shlex
import signal
from contextlib import contextmanager

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

import nas.train
from nas.cli.entry import end_stopped
from nas.console import new_console
from nas.signals import Abandoned
from nas.track.tags import BEST_ACCURACY

EPOCH = re.compile(r"^epoch .*%\)", re.MULTILINE)
"""What a line of an evaluation says, but for the images in a second."""


def test_output_is_plain_when_piped(nas_train, tiny, tmp_path):
    ended = nas_train(*tiny, "run=first")
    folder = tmp_path / "outputs" / "train" / "first"
    lines = ended.out.splitlines()
    assert ended.err == ""
    assert lines[0] == f"two_branch: 2 architectures, 4 steps, on cpu; {folder}"
    assert re.fullmatch(r"epoch 1/1  loss .*  val accuracy .*%\)  .* images/s", lines[1])
    assert re.fullmatch(r"[\d,]+ images/s on cpu, 1 thread", lines[-2])
    assert lines[-1] == f"run:         {folder}"  # and how to look at the curves, if they are written for TensorBoard
    assert max(len(line) for line in lines[1:-1]) <= 100
    assert "\x1b" not in ended.out


def test_a_finished_run_reports_the_same_again(nas_train, tiny, tmp_path):
    quiet = nas_train(*tiny, "run=first", "track.progress=false")
    assert (quiet.status, quiet.err) == (0, "")
    report = (tmp_path / "outputs" / "train" / "first" / "report.json").read_bytes()
    first, *rest = nas_train(*tiny, "run=first").out.splitlines()
    assert "going on at step 4 of 4" in first
    assert quiet.out.splitlines() == rest  # without progress the result alone is printed
    assert "epoch" not in quiet.out
    assert (tmp_path / "outputs" / "train" / "first" / "report.json").read_bytes() == report


def test_the_folder_can_be_chosen(nas_train, tiny, tmp_path):
    ended = nas_train(*tiny, "hydra.run.dir=my runs/one", "track.writers=[tensorboard]")
    assert ended.status == 0
    assert (tmp_path / "my runs" / "one" / "report.json").is_file()
    assert not (tmp_path / "outputs").exists()
    logdir = shlex.split(ended.out.splitlines()[-1])[-1]  # can be pasted into a shell
    assert logdir == str(tmp_path / "my runs")


def test_console_metrics_report_and_tensorboard_agree(nas_train, tiny, tmp_path):
    words = [
        *tiny[:-1],
        "train.epochs=3",
        "optimizer.lr=0.3",
        "evaluate.images=9",
        "track.log_every=1",
        "evaluate.rounds=2",
        "run=first",
    ]
    out, folder = nas_train(*words).out, tmp_path / "outputs" / "train" / "first"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    ends = [line for line in lines if "overview/loss_val" in line]
    printed = re.findall(r"^epoch (.)/3  loss (\S+)  val loss (\S+)  val accuracy (\S+)% \(best (\S+)%\)", out, re.M)
    assert len(printed) == len(ends) == 3
    board = EventAccumulator(str(folder)).Reload()
    for number, (line, shown) in enumerate(zip(ends, printed, strict=True)):
        steps = [one["train/loss"] for one in lines if "train/loss" in one][4 * number : 4 * number + 4]
        assert line["overview/loss_train"] == pytest.approx(sum(steps) / 4)
        losses, accuracies = (
            (line["overview/loss_train"], line["overview/loss_val"]),
            (line["overview/accuracy_mean"], line[BEST_ACCURACY]),
        )
        assert shown == (f"{number + 1}", *(f"{x:.3f}" for x in losses), *(f"{100 * x:.1f}" for x in accuracies))
        for tag, value in line.items() - {("step", line["step"])}:
            assert {point.step: point.value for point in board.Scalars(tag)}[line["step"]] == pytest.approx(value), tag
    content = board.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    shown = metadata.parse_session_start_info_plugin_data(content).hparams
    assert {"optimizer.lr", "evaluate.images", "evaluate.rounds", "data"} <= {*shown}, "rounds has its default"
    assert not {"run", "optimizer.momentum", "gate"} & {*shown}
    report = json.loads((folder / "report.json").read_text())
    rows = report["subnetworks"]
    assert lines[-1] == {"step": lines[-2]["step"] + 1, "overview/accuracy_test": rows[0]["test_accuracy"]}
    assert report["train_loss"] == ends[-1]["overview/loss_train"]
    assert sum(row["val_loss"] for row in rows) / len(rows) == pytest.approx(ends[-1]["overview/loss_val"])
    assert sum(row["val_accuracy"] for row in rows) / len(rows) == pytest.approx(ends[-1]["overview/accuracy_mean"])
    assert rows[0]["val_accuracy"] == ends[-1][BEST_ACCURACY] > rows[-1]["val_accuracy"], "best and mean must differ"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_saves_and_the_printed_command_resumes(nas_train, stopped_at, tiny, tmp_path, same_weights, number):
    words = (*tiny, "train.epochs=3", "train.save_every=3", "space=chain", "space.candidates=[skip,conv1]")
    with stopped_at("*/step_*", number):
        ended = nas_train(*words, "run=stopped")
    epochs = EPOCH.findall(ended.out)
    assert (ended.status, ended.err) == (128 + number, "")
    last = ended.out.splitlines()[-1]
    found = re.fullmatch(rf"stopped by {number.name} at step (\d+), saved; to go on: (.*)", last)
    assert found, last
    folder = tmp_path / "outputs" / "train" / "stopped"
    assert list(folder.glob(f"step_{int(found[1]):09d}.*"))
    assert 3 <= int(found[1]) < 12

    _, *printed = shlex.split(found[2])
    ended = nas_train(*printed)
    assert ended.status == 0, ended.err
    assert f"going on at step {found[1]} of 12" in ended.out
    epochs += EPOCH.findall(ended.out)
    assert epochs == EPOCH.findall(nas_train(*words, "run=undisturbed").out)
    undisturbed = tmp_path / "outputs" / "train" / "undisturbed"
    assert same_weights(folder, undisturbed)
    assert (folder / "metrics.jsonl").read_text().count("\n") == (undisturbed / "metrics.jsonl").read_text().count("\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_before_training_leaves_nothing(nas_train, tiny, tmp_path, monkeypatch, number):
    monkeypatch.setattr(nas.train, "Run", lambda *_, **__: os.kill(os.getpid(), number))
    ended = nas_train(*tiny)
    assert (ended.status, ended.out, ended.err) == (128 + number, "", "")
    assert not list(tmp_path.iterdir())


def test_a_truncated_checkpoint_falls_back_to_the_last(nas_train, tiny, tmp_path, same_weights):
    words = (*tiny, "train.save_every=2")
    assert nas_train(*words, "run=whole").status == nas_train(*words, "run=cut").status == 0
    folder = tmp_path / "outputs" / "train" / "cut"
    (folder / "report.json").unlink()
    newest = folder / "step_000000004.safetensors"
    newest.write_bytes(newest.read_bytes()[:1000])
    ended = nas_train(*words, "run=cut")
    assert ended.status == 0
    rule = r"nas-train: .*step_000000004\.safetensors is damaged .*; going on from step_000000002\.safetensors\n"
    assert re.fullmatch(rule, ended.err)
    assert "going on at step 2 of 4" in ended.out
    assert same_weights(folder, tmp_path / "outputs" / "train" / "whole")


def test_only_truncated_checkpoints_are_refused(nas_train, tiny, tmp_path, all_bytes):
    assert nas_train(*tiny, "run=cut", "train.save_every=2").status == 0
    for path in tmp_path.rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:1000])
    before = all_bytes(tmp_path)
    ended = nas_train(*tiny, "run=cut", "train.save_every=2")
    assert ended.status == 1
    rule = r"none of the 2 checkpoints there can be read; take another run=NAME to begin anew"
    assert re.fullmatch(rf"nas-train: run=.*cut: {rule}", ended.err.splitlines()[-1])
    assert all_bytes(tmp_path) == before


@contextmanager
def limited_files(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    yield


def test_a_full_disk_keeps_the_last_checkpoint(nas_train, start, tiny, tmp_path, same_weights):
    words = (*tiny, "train.save_every=1", "optimizer=adamw", "run=full")
    assert nas_train(*words, "run=room").status == 0
    room = tmp_path / "outputs" / "train" / "room"
    largest = max(path.stat().st_size for path in room.glob("*.safetensors"))
    # A branch has moments from its first step on: there is room for the checkpoints before that of the last branch.
    process = start(*words, injected=lambda: limited_files(largest - 200_000))
    _, err = process.communicate()
    assert process.returncode == 1
    rule = r"could not be written \(File too large\); the checkpoint before it is intact; make room and start .*"
    assert re.fullmatch(rf"nas-train: checkpoint=.*/full/step_\d+\.safetensors: {rule}\n", err), err
    folder = tmp_path / "outputs" / "train" / "full"
    assert not list(folder.glob("*.unfinished"))
    kept = max(folder.glob("*.safetensors")).stem
    ended = nas_train(*words)
    assert ended.status == 0
    assert f"going on at step {int(kept[5:])} of 4" in ended.out
    assert same_weights(folder, room)


def test_a_disk_full_of_curves_is_one_line(start, tiny, tmp_path):
    words = [word for word in tiny if not word.startswith("track")]
    process = start(*words, "run=full", injected=lambda: limited_files(20_000))
    _, err = process.communicate()
    assert process.returncode == 1
    assert re.fullmatch(r"nas-train: .*/outputs/train/full/\S+: File too large; make room or .*\n", err), err


def test_an_abandoned_step_resumes_from_the_last_checkpoint(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["train.py", "run=one", "seed=1"])
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        end_stopped(new_console(), "one", Abandoned(signal.SIGTERM), " in step 3")
    line = "stopped by SIGTERM in step 3; to go on from the last checkpoint, the same command: torchrun "
    assert capsys.readouterr().out.startswith(line)
    assert ended.value.code == 143
