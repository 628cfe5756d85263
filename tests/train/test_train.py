"""Laws of the step, the loop, the schedule and the evaluation."""

import copy
import csv
import json
import math
from dataclasses import replace

import pytest
import torch
from support.archives import pixels_of
from support.runs import CHAIN, RUNS, assert_same, finish, state_of, tiny
from torch import nn

import nas.train.evaluation.subnetworks
from nas import checkpoint
from nas.checkpoint import calibrated, load_trained
from nas.dist import choose_device
from nas.errors import DivergedError, NasWarning, SettingError
from nas.gate import FixedGate, UniformGate
from nas.seeds import generator
from nas.settings import (
    AdamWSettings,
    FixedGateSettings,
    SGDSettings,
    TrainRunSettings,
    TrainSettings,
    TwoBranchSettings,
    UniformGateSettings,
)
from nas.space import build_space, extract, recalibrate
from nas.train import (
    GatedOptimizer,
    Loss,
    Run,
    TrainStep,
    architectures_to_evaluate,
    evaluate,
    fit,
    learning_rate,
    make_report,
    read_steps,
    tables,
)
from nas.train.evaluation.prefix import PrefixWalk
from nas.train.result import Unread


def batch(size=8, side=16, classes=3, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(size, 3, side, side, generator=random), torch.randint(classes, (size,), generator=random)


def test_a_run_leaves_metrics_checkpoints_and_report(tmp_path):
    run = finish(tiny(), tmp_path)
    report = make_report(run)
    assert [path.stem for path in checkpoint.saved(tmp_path)] == ["step_000000022", "step_000000011"]
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [4, 8, 11, 12, 16, 20, 22, 22]  # a line every 4 steps, at the end, and one an evaluation
    assert sum(row.share for row in report.branches if row.slot == "slot0") == pytest.approx(1)
    assert report == make_report(run)  # read back, not evaluated again
    assert len(tables(report)) == 2
    head, *rows = csv.reader((tmp_path / "confusion.csv").read_text().splitlines())
    assert (head[0], head[-1], len(rows)) == ("true class", "recall", 3)
    right = sum(int(row[1 + k]) for k, row in enumerate(rows))
    assert right / report.test_images == report.subnetworks[0].test_accuracy
    assert (tmp_path / "confusion.png").is_file()


def test_a_space_of_one_architecture_is_warned_of(tmp_path):
    settings = tiny(TrainRunSettings(space=replace(CHAIN, candidates=["conv1"]), gate=UniformGateSettings()))
    with pytest.warns(NasWarning, match="space chain has one architecture"):
        Run(settings, tmp_path).tracker.writer.close()


def test_two_open_gates_and_all_options_train(tmp_path):
    for name, value in {"precision": "bf16", "channels_last": True, "schedule": "onecycle"}.items():
        settings = replace(tiny(epochs=1, **{name: value}), space=TwoBranchSettings())
        settings = replace(settings, gate=FixedGateSettings(architecture="0+1"))
        report = make_report(finish(settings, tmp_path / name))
        assert [row.share for row in report.branches] == [0.5, 0.5]
        assert [row.architecture for row in report.subnetworks] == ["0+1"]


@pytest.mark.thorough
def test_compiled_branches_train_as_others_do_and_resume(tmp_path):
    settings = replace(tiny(epochs=1), space=TwoBranchSettings())
    plain = finish(settings, tmp_path / "plain")
    settings = replace(settings, train=replace(settings.train, compile="branches"))
    compiled = finish(settings, tmp_path / "compiled")
    for name, tensor in plain.supernet.state_dict().items():
        torch.testing.assert_close(compiled.supernet.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)
    stopped = Run(settings, tmp_path / "stopped")
    fit(stopped, until=5)
    stopped.tracker.writer.close()
    assert_same(state_of(finish(settings, tmp_path / "stopped")), state_of(compiled), "stopped after 5 steps")
    assert '"time/compile_s":' in (tmp_path / "compiled/metrics.jsonl").read_text()


def test_a_rounds_summed_gradients_are_one_update():
    space = build_space(CHAIN, 3, 16, 3)
    x, y = batch()
    paths = [(0, 2), (2, 0), (1, 1)]
    together = space.supernet()
    optimizer = GatedOptimizer(together, SGDSettings(momentum=0, weight_decay=0))
    TrainStep(together, optimizer)((x, y), paths, lr=0.1)
    alone = space.supernet()
    for path in paths:
        nn.functional.cross_entropy(alone(x, path), y).backward()
    with torch.no_grad():
        for parameter in alone.parameters():
            parameter -= 0.1 * parameter.grad
    for name, tensor in alone.state_dict().items():
        torch.testing.assert_close(together.state_dict()[name], tensor, rtol=0, atol=1e-6)


def test_mixed_labels_weigh_the_classes():
    supernet = build_space(CHAIN, image_size=16, classes=3).supernet().train()
    (x, y), optimizer = batch(), GatedOptimizer(supernet, SGDSettings())
    shares = 0.7 * nn.functional.one_hot(y, 3).float() + 0.3 * nn.functional.one_hot(y.roll(1), 3)
    logits = copy.deepcopy(supernet)(x, (1, 2)).double()
    expected = -((0.9 * shares + 0.1 / 3) * logits.log_softmax(1)).sum(1).mean()
    result = TrainStep(supernet, optimizer, Loss(label_smoothing=0.1))((x, shares), [(1, 2)], lr=0.1)
    assert result.loss == pytest.approx(expected.item(), rel=1e-5)
    assert result.correct == int((logits.argmax(1) == y).sum())


def test_a_step_clips_updates_averages_and_drops_gradients():
    space, (x, y) = build_space(CHAIN, 3, 16, 3), batch()
    for optimizer in (SGDSettings(), AdamWSettings()):
        supernet, seen = space.supernet(), []
        gated = GatedOptimizer(supernet, optimizer, clip_norm=1e-3, ema_decay=0.75)
        gated.optimizer.register_step_pre_hook(
            lambda opt, *_, seen=seen: seen.extend(p.grad.clone() for p in opt.param_groups[0]["params"])
        )
        before = {name: p.detach().clone() for name, p in supernet.named_parameters()}
        TrainStep(supernet, gated)((x, y), [(1, 2)], lr=0.1)
        assert float(nn.utils.get_total_norm(seen)) == pytest.approx(1e-3, rel=1e-3), optimizer
        for name, parameter in supernet.named_parameters():
            assert parameter.grad is None, optimizer
            torch.testing.assert_close(gated.average[parameter], before[name].lerp(parameter.detach(), 0.25))
        closed = dict(supernet.named_parameters())["blocks.0.branches.2.0.weight"]
        assert torch.equal(gated.average[closed], closed), "an average moves when its weight does"


def test_a_non_finite_loss_stops_before_the_update(tmp_path):
    run = Run(tiny(save_every=1), tmp_path)
    batch_of = run.batches.batch
    run.batches.batch = lambda step: (batch_of(step)[0] * (math.nan if step == 5 else 1), batch_of(step)[1])
    with pytest.raises(DivergedError, match=r"optimizer.lr=.*the loss is nan at step 5 on path \(\d, \d\)"):
        fit(run)
    assert checkpoint.load(checkpoint.saved(tmp_path)[0])["step"] == 5
    assert all(bool(torch.isfinite(parameter).all()) for parameter in run.supernet.parameters())
    saved = checkpoint.saved(tmp_path)
    run.unread = Unread(8)
    with torch.no_grad():
        next(run.supernet.parameters()).fill_(math.inf)
    with pytest.raises(DivergedError, match="no longer finite"):
        run.save()
    assert checkpoint.saved(tmp_path) == saved


def test_an_unmade_step_leaves_no_gradient():
    space = build_space(CHAIN, 3, 16, 3)
    supernet, (x, y) = space.supernet(), batch()
    optimizer = GatedOptimizer(supernet, SGDSettings())
    with torch.no_grad():
        supernet.blocks[0].branches[2][0].weight.fill_(math.nan)
    with pytest.raises(DivergedError, match=r"on path \(2, 1\)"):
        read_steps([TrainStep(supernet, optimizer)((x, y), [(1, 1), (2, 1)], lr=0.1)])
    assert all(parameter.grad is None for parameter in supernet.parameters())
    before = [parameter.clone() for parameter in supernet.blocks[0].branches[1].parameters()]
    TrainStep(supernet, optimizer)((x, y), [(0, 1)], lr=0.1)
    assert all(map(torch.equal, before, supernet.blocks[0].branches[1].parameters()))


def test_learning_rates():
    train = TrainSettings(epochs=10, warmup_epochs=2)
    rates = [learning_rate(train, 1.0, step, 100, 10) for step in range(100)]
    assert rates[:20] == sorted(rates[:20])
    assert rates[20] == 1.0
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert 0 < rates[-1] < 1e-3
    cycle = [learning_rate(replace(train, schedule="onecycle"), 1.0, step, 100, 10) for step in range(100)]
    assert cycle[0] == 1 / 25
    assert max(cycle) == cycle[30] == 1.0
    assert 0 < cycle[-1] < 1e-3
    short = TrainSettings(epochs=1)  # its warm-up of one epoch is cut to half of the run
    assert learning_rate(short, 1.0, 5, 10, 10) == 1.0


# ------------------------------------------------------------------------------------------------- evaluation


def trained_chain():
    space = build_space(CHAIN, 3, 16, 3)
    supernet, (x, y) = space.supernet(), batch(32)
    optimizer, gate = GatedOptimizer(supernet, SGDSettings()), UniformGate(space, 0)
    for step in range(20):
        TrainStep(supernet, optimizer)((x, y), gate.paths(step), lr=0.05)
    return space, supernet


def test_no_candidate_leaks_into_another_or_the_supernet():
    space, supernet = trained_chain()
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    architectures = list(space.enumerate())
    held_out, calibration = [batch(64, seed=1)], [batch(seed=2), batch(seed=3)]
    together = evaluate(supernet, architectures, held_out, calibration)
    assert together == [evaluate(supernet, [architecture], held_out, calibration)[0] for architecture in architectures]
    shared = evaluate(supernet, architectures[::-1], held_out, calibration, space=space)
    assert together == shared[::-1]
    assert supernet.training
    assert_same(dict(supernet.state_dict()), before)


def test_recalibration_gives_the_statistics_of_the_calibration_batches():
    _, supernet = trained_chain()
    x = [batch(seed=s)[0] for s in range(3)]
    plain = extract(supernet, (2, 1))
    recalibrate(supernet, (2, 1), [(images, torch.zeros(8)) for images in x])
    norm = supernet.stem[1]
    outputs = [plain.stem[0](images) for images in x]
    mean = torch.stack([out.mean(dim=(0, 2, 3)) for out in outputs]).mean(dim=0)
    var = torch.stack([out.var(dim=(0, 2, 3)) for out in outputs]).mean(dim=0)
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_var, var)
    assert norm.momentum == 0.1
    assert not norm.training


def test_evaluation_takes_the_average_and_can_skip_recalibration(tmp_path):
    run = finish(tiny(RUNS["chain-fair-adamw-ema"]), tmp_path)
    averaged = run.evaluate("val")
    run.optimizer.average = {}
    raw = run.evaluate("val")
    assert [found.loss for found in raw] != [found.loss for found in averaged]
    run.settings = replace(run.settings, evaluate=replace(run.settings.evaluate, recalibrate=False))
    running = run.evaluate("val")
    assert [found.loss for found in running] != [found.loss for found in raw]
    plain = extract(run.supernet.eval(), running[0].architecture)
    x = (pixels_of(run.splits.val).float() / 255 - run.splits.mean[:, None, None]) / run.splits.std[:, None, None]
    right = (plain(x).argmax(dim=1) == run.splits.val.labels).double().mean()
    assert running[0].accuracy == pytest.approx(float(right))


def test_only_the_last_evaluation_takes_all_images(tmp_path, monkeypatch):
    numbers, found, note = [], [], Run.note
    monkeypatch.setattr(Run, "note", lambda run, all_of: numbers.append(all_of[0].images) or note(run, all_of))
    for interim in (0, 6):
        evaluate = replace(tiny().evaluate, interim_images=interim)
        run = finish(replace(tiny(), evaluate=evaluate), tmp_path / str(interim))
        found.append([run.evaluated, run.supernet.state_dict(), make_report(run).subnetworks])
    assert numbers == [12, 12, 6, 12]
    assert_same(*found)


def test_each_slots_choices_are_evaluated_equally_often():
    space = build_space(replace(CHAIN, depths=[4]), 3, 16, 3)
    found = architectures_to_evaluate(UniformGate(space, 5), rounds=2)
    for slot in range(4):
        assert sorted(a[slot] for a in found) == [0, 0, 1, 1, 2, 2]
    fixed = FixedGate(space, 0, FixedGateSettings(architecture="0-1-2-0"))
    assert architectures_to_evaluate(fixed, rounds=2) == [(0, 1, 2, 0)]
    small = build_space(TwoBranchSettings(branches=3))
    assert architectures_to_evaluate(UniformGate(small, 0), rounds=2) == [(0,), (1,), (2,)]


def test_a_device_that_is_not_there_is_refused():
    for name in ("cuda:99", "banana", "cpu:1"):
        with pytest.raises(SettingError, match=rf"train.device={name}"):
            choose_device(name)


def test_every_room_calibrates_on_the_same_images(tmp_path, monkeypatch):
    """Search, ranking and export take them from the checkpoint, training's own evaluation from its run: seed's draw."""
    seen = []

    class Noting(PrefixWalk):
        def __init__(self, model, space, batches, calibration, *how):
            super().__init__(model, space, batches, calibration, *how)
            seen.append(calibration)

    monkeypatch.setattr(nas.train.evaluation.subnetworks, "PrefixWalk", Noting)
    finish(tiny(), tmp_path)
    trained = load_trained(tmp_path)
    calibrated(trained, (0, 1))
    drawn = torch.randperm(len(trained.splits.train), generator=generator(0, "recalibrate"))[:16]
    expected = list(trained.calibration())
    assert_same(list(trained.batches(trained.splits.train.subset(drawn))), expected)
    assert seen
    for found in seen:
        assert_same(list(found), expected)
