"""Several processes on one journal, one of which is killed: together they evaluate the space, and nothing twice."""

import multiprocessing
import os
import signal
import time

import pytest

from nas.search.objectives import Limits, objective
from nas.search.proposers import build_proposer
from nas.search.study import Study
from nas.settings import ChainSettings
from nas.space import build_space

SPACE = build_space(ChainSettings(widths=[4], depths=[4], strides=[1], candidates=["skip", "conv1", "conv3"]))
"""81 architectures."""


def open_study(folder, sampler):
    limits = Limits(SPACE, {}, {})
    proposer = build_proposer(sampler, SPACE, limits, 0, [objective("loss")])
    return Study(folder, proposer, [objective("loss")], limits, trials=200, batch=4, definition={})


def work(folder, sampler, evaluated):
    """Evaluate to the end; each evaluation is written to a file of this process alone."""
    study = open_study(folder, sampler)
    with (folder / f"evaluated-{os.getpid()}").open("a", buffering=1) as file:
        while not study.done():
            for trial in study.claim():
                time.sleep(0.002)
                file.write(SPACE.encode(trial.architecture) + "\n")
                study.tell(trial, {"loss": float(sum(trial.architecture))}, 0.002)
                evaluated.value += 1
    study.close()


def lines(folder):
    return [line for path in folder.glob("evaluated-*") for line in path.read_text().splitlines()]


def start(folder, sampler, number):
    context = multiprocessing.get_context("fork")
    counts = [context.Value("i", 0) for _ in range(number)]
    processes = [context.Process(target=work, args=(folder, sampler, count)) for count in counts]
    for process in processes:
        process.start()
    return processes, counts


def join(processes):
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0


@pytest.mark.parametrize("sampler", ["exhaustive", "tpe"])
def test_two_processes_share_the_space_and_evaluate_each_architecture_once(tmp_path, sampler):
    processes, counts = start(tmp_path, sampler, 2)
    join(processes)
    assert sorted(lines(tmp_path)) == sorted(map(SPACE.encode, SPACE.enumerate()))
    assert all(count.value > 0 for count in counts)
    trials = open_study(tmp_path, sampler).trials()
    assert [t.number for t in trials] == list(range(81))
    assert sorted(t.architecture for t in trials) == list(SPACE.enumerate())
    assert all(t.feasible and t.values == {"loss": float(sum(t.architecture))} for t in trials)


def test_the_others_finish_what_a_killed_process_has_claimed(tmp_path):
    processes, counts = start(tmp_path, "random", 2)
    while counts[0].value < 5:
        assert processes[0].is_alive()
        time.sleep(0.001)
    os.kill(processes[0].pid, signal.SIGKILL)
    processes[0].join()
    join(processes[1:])
    trials = open_study(tmp_path, "random").trials()
    assert sorted(t.architecture for t in trials) == list(SPACE.enumerate())
    assert all(t.finished for t in trials)
    # What it was at when it died was not yet told, and is evaluated again; nothing else is.
    assert 0 <= len(lines(tmp_path)) - 81 <= 1
