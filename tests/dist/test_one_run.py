"""What is one for all processes, and what each has for itself."""

import torch
from ranks import together
from runs import CHAIN, assert_same, tiny

from nas.settings import CustomSettings, TrainRunSettings
from nas.train import Run, fit, make_report

RESTLESS = TrainRunSettings(space=CustomSettings(factory="ranks:Restless"))


def in_folders_of_their_own(ranks, settings, folder):
    run = Run(settings, folder / str(ranks.rank), ranks=ranks)
    fit(run)
    if ranks.leads:
        make_report(run)
    run.tracker.writer.close()


def test_rank_0_alone_writes(tmp_path):
    settings = tiny(TrainRunSettings(space=CHAIN))
    together(2, in_folders_of_their_own, tmp_path, settings, tmp_path / "runs")
    assert {"metrics.jsonl", "report.json", "step_000000022.pt"} <= {p.name for p in (tmp_path / "runs/0").iterdir()}
    assert not (tmp_path / "runs/1").exists()


def restless(ranks, settings, folder):
    run = Run(settings, folder, ranks=ranks)
    first = {name: tensor.clone() for name, tensor in run.supernet.state_dict().items()}
    run.supernet.drawn.clear()  # of the checks before the first step
    fit(run)
    run.tracker.writer.close()
    return first, run.supernet.drawn


def test_all_begin_with_the_weights_of_rank_0(tmp_path):
    (first, _), (second, _) = together(2, restless, tmp_path, tiny(RESTLESS), tmp_path / "run")
    assert_same(first, second)


def test_each_rank_and_each_step_has_dropout_of_its_own_also_after_a_restart(tmp_path):
    settings = tiny(RESTLESS, save_every=11)
    found = [drawn for _, drawn in together(2, restless, tmp_path, settings, tmp_path / "run")]
    every = [tuple(mask.tolist()) for drawn in found for mask in drawn]
    assert len(every) == len(set(every)) == 2 * 22
    max((tmp_path / "run").glob("step_*.pt")).unlink()
    again = [drawn for _, drawn in together(2, restless, tmp_path, settings, tmp_path / "run")]
    for whole, rest in zip(found, again, strict=True):
        assert len(rest) == 11
        assert all(map(torch.equal, whole[11:], rest))
