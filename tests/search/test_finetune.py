"""Fine-tuning a candidate: from the supernet's weights, on the same batches as every other, without a trace."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from support.chains import custom, images, lively
from support.runs import assert_same, finish, tiny

from nas.checkpoint import load_trained
from nas.data import Batches
from nas.errors import DivergedError, SettingError
from nas.search import Evaluator, Finetune
from nas.settings import AdamWSettings, SGDSettings
from nas.train import evaluate

BATCHES, CALIBRATION = images(12, 8, seed=0), images(14, 7, seed=1)
TRAINING = images(24, 6, seed=2)
SPACE = custom("AwkwardNet")
SOME = [(0, 0, 0), (1, 1, 2), (1, 0, 1), (0, 1, 1)]


def tuned(**how):
    return Finetune(**{"steps": 4, "lr": 0.05, "batch": TRAINING.__getitem__, **how})


def evaluator(supernet, calibration=CALIBRATION, **how):
    return Evaluator(supernet, SPACE, BATCHES, calibration, finetune=tuned(**how))


def test_it_takes_sgd_steps_along_a_cosine():
    supernet = lively(SPACE)
    found = tuned(sgd=SGDSettings(lr=7, momentum=0.5, weight_decay=0.1), label_smoothing=0.1)(supernet, (0, 1, 2))
    model = copy.deepcopy(supernet).train()
    path = [p for name, p in model.named_parameters() if not name.startswith(("blocks.0.", "blocks.2.branches.1"))]
    path = [p for p in path if all(p is not q for q in model.blocks[1].mix.branches[0].parameters())]
    sgd = torch.optim.SGD(path, lr=0.05, momentum=0.5, weight_decay=0.1)
    for step, (x, y) in enumerate(TRAINING):
        sgd.param_groups[0]["lr"] = 0.05 * (1 + math.cos(math.pi * step / 4)) / 2
        sgd.zero_grad()
        torch.nn.functional.cross_entropy(model(x, (0, 1, 2)), y, label_smoothing=0.1).backward()
        sgd.step()
    torch.testing.assert_close(found.state_dict(), model.state_dict())
    assert not any(module.training for module in found.modules())


def test_a_fine_tuned_candidate_is_evaluated_like_others():
    supernet, calibration = lively(SPACE), CALIBRATION
    for found in evaluator(supernet, calibration)(SOME):
        model = tuned()(supernet, found.architecture)
        assert found == evaluate(model, [found.architecture], BATCHES, calibration)[0]
        assert found != evaluate(supernet, [found.architecture], BATCHES, calibration)[0]


def test_no_candidate_leaves_a_trace():
    supernet = lively(SPACE)
    before, random = copy.deepcopy(supernet.state_dict()), torch.get_rng_state()
    together = {j.architecture: j for j in evaluator(supernet)(SOME)}
    for architecture in SOME[::-1]:
        torch.rand(3)  # what dropout draws does not depend on it
        random = torch.get_rng_state()
        assert list(evaluator(supernet)([architecture])) == [together[architecture]]
        assert torch.equal(torch.get_rng_state(), random)
    assert_same(supernet.state_dict(), before)
    assert all(p.grad is None and not p._post_accumulate_grad_hooks for p in supernet.parameters())


def test_the_seed_is_that_of_dropout():
    supernet, dropping = lively(SPACE), (1, 0, 0)
    one, same, other = (tuned(seed=seed)(supernet, dropping).state_dict() for seed in (0, 0, 1))
    assert_same(one, same)
    assert not torch.equal(one["head.weight"], other["head.weight"])


def test_candidates_see_the_same_batches_and_share_nothing():
    asked = []
    tuning = evaluator(lively(SPACE), batch=lambda step: asked.append(step) or TRAINING[step])
    assert not tuning.shares_prefixes
    assert len(list(tuning(SOME))) == 4
    assert asked == [0, 1, 2, 3] * 4
    assert tuning.block_evaluations == 4 * 3


def test_a_diverging_candidate_is_named_and_others_follow():
    supernet = lively(SPACE)
    supernet.blocks[0].branches[1][0].weight.data[0, 0, 0, 0] = torch.inf
    found = evaluator(supernet)([(0, 0, 0), (1, 0, 0), (1, 1, 0)])
    assert next(found).architecture == (0, 0, 0)
    rule = r"search\.finetune_lr=0\.05: the loss is nan at step 0 on path \(1, 0, 0\) of its fine-tuning; lower it"
    with pytest.raises(DivergedError, match=rule):
        next(found)
    with pytest.raises(DivergedError, match=r"on path \(1, 1, 0\)"):
        next(found)
    with pytest.raises(DivergedError, match="architecture=0-0-0: its loss on the evaluated images is nan"):
        next(evaluator(lively(SPACE), steps=1, lr=1e30)([(0, 0, 0)]))  # after its last step


def test_what_is_out_of_range_is_refused():
    for key, value in (("steps", 0), ("lr", 0.0), ("lr", math.inf), ("lr", math.nan)):
        with pytest.raises(SettingError, match=rf"search\.finetune_{key}={value}"):
            tuned(**{key: value})


def test_candidates_are_tuned_as_their_run_trained(tmp_path):
    settings = replace(tiny(label_smoothing=0.1, clip_norm=2.0), optimizer=SGDSettings(lr=0.1, nesterov=True))
    run = finish(settings, tmp_path)
    trained = load_trained(tmp_path)
    tune = Finetune.of(trained, 3, 0.01)
    assert (tune.label_smoothing, tune.clip_norm, tune.sgd) == (0.1, 2.0, settings.optimizer)
    data = (run.splits.train, run.splits.mean, run.splits.std, settings.data, 8, settings.seed)
    assert_same(tune.batch(1), Batches(*data, stream="finetune").batch(1))
    assert not torch.equal(tune.batch(1)[0], run.batches.batch(1)[0])
    everything = list(run.space.enumerate())
    found = list(Evaluator.of(trained, finetune=tune)(everything))
    assert found == list(Evaluator.of(trained, finetune=Finetune.of(trained, 3, 0.01))(everything))
    adam = replace(trained, settings=replace(settings, optimizer=AdamWSettings(weight_decay=0.3)))
    assert Finetune.of(adam, 3, 0.01).sgd == SGDSettings()
