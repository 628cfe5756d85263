"""What holds on a GPU; skipped where there is none. scripts/gpu.sh runs these on a machine that has one."""

import copy
from dataclasses import replace

import pytest
import torch
from support.runs import CHAIN, MIXED, RUNS, assert_same, finish, state_of, stop_after, tiny
from torch import nn

from nas.checkpoint import load_trained
from nas.data import Batches, load_splits
from nas.dist import set_cuda_flags
from nas.errors import DivergedError
from nas.export import export, load
from nas.jac import jacobian, ntk, slogdet
from nas.search import Evaluator
from nas.settings import AdamWSettings, SGDSettings, TrainSettings, TwoBranchSettings
from nas.signals import Interrupted
from nas.space import build_space, extract
from nas.train import GatedOptimizer, Run, TrainStep, fit, read_steps

GPU = torch.device("cuda")
OPTIMIZERS = {"sgd": SGDSettings(weight_decay=0.01), "adamw": AdamWSettings()}
pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")]


@pytest.fixture(autouse=True)
def _flags():
    set_cuda_flags(GPU, TrainSettings())


def chain():
    """A supernet of two slots on the GPU, and a batch for it."""
    random = torch.Generator().manual_seed(0)
    x, y = torch.randn(8, 3, 16, 16, generator=random), torch.randint(3, (8,), generator=random)
    return build_space(CHAIN, image_size=16, classes=3).supernet().to(GPU).train(), (x.to(GPU), y.to(GPU))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_closed_branches_are_neither_run_nor_changed(name):
    supernet, batch = chain()
    optimizer = GatedOptimizer(supernet, OPTIMIZERS[name])
    step, calls = TrainStep(supernet, optimizer), []
    step(batch, [(2, 2)], 0.1)
    for block in supernet.blocks:
        block.branches[2].register_forward_hook(lambda *_: calls.append(1))

    def closed():
        tensors = {**supernet.state_dict(), **optimizer.state_dict()}
        return {name: value.clone() for name, value in tensors.items() if "branches.2." in name}

    before = closed()
    for number in range(5):
        step(batch, [(1, 1)], 0.1, number)
    assert before
    assert not calls
    assert_same(before, closed())


def test_a_gated_step_is_the_subnetworks_step():
    supernet, (x, y) = chain()
    alone = copy.deepcopy(extract(supernet, (2, 1)))
    stock = torch.optim.SGD(alone.parameters(), 0.1, momentum=0.9, weight_decay=0.01, fused=True)
    step = TrainStep(supernet, GatedOptimizer(supernet, OPTIMIZERS["sgd"]))
    for _ in range(3):
        step((x, y), [(2, 1)], 0.1)
        stock.zero_grad()
        nn.functional.cross_entropy(alone(x), y).backward()
        stock.step()
    assert_same(extract(supernet, (2, 1)).state_dict(), alone.state_dict())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_loss_that_is_not_finite_holds_updates_back(name):
    supernet, (x, y) = chain()
    optimizer = GatedOptimizer(supernet, OPTIMIZERS[name], clip_norm=1.0, ema_decay=0.9)
    step = TrainStep(supernet, optimizer)

    def learned():
        return copy.deepcopy({**dict(supernet.named_parameters()), **optimizer.state_dict()})

    results = [step((x, y), [(1, 2)], 0.1, 0)]
    before = learned()
    results += [step((x * value, y), [(1, 2)], 0.1, number) for number, value in ((1, float("nan")), (2, 1.0))]
    assert_same(before, learned())
    with pytest.raises(DivergedError, match="at step 1 on path"):
        read_steps(results)


@pytest.mark.parametrize("name", RUNS)
def test_a_stopped_run_ends_bit_for_bit_alike(name, tmp_path):
    settings = tiny(RUNS[name], device="cuda", fast="none", precision="bf16" if "concat" in name else "float32")
    undisturbed = finish(settings, tmp_path / "undisturbed")
    run = Run(settings, tmp_path / "stopped")
    stop_after(run, 14)
    with pytest.raises(Interrupted):
        fit(run)
    run.tracker.writer.close()
    assert_same(state_of(finish(settings, tmp_path / "stopped")), state_of(undisturbed))


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("two_branch-uniform-sgd", {"crop": 2, "flip": True, "cutout": 4}),
        ("chain-fair-adamw-ema", {"crop": 0, "resized_crop": 0.5}),
        ("concat-step_each", {"mixup": 0.2, "cutmix": 1.0}),
    ],
)
def test_nothing_waits_between_two_readings(name, changed, tmp_path, monkeypatch):
    settings = tiny(RUNS[name], device="cuda", fast="none", epochs=1)
    settings = replace(settings, data=replace(settings.data, size=400, **changed))
    run = Run(settings, tmp_path)
    advance, read, made = run.progress.advance, run.read, []

    def advanced(step, tracker):
        advance(step, tracker)
        made.append(step)
        torch.cuda.set_sync_debug_mode("error")  # from the second step of the epoch on, whose draws are there then

    def reading():
        torch.cuda.set_sync_debug_mode("default")
        read()

    # Waiting for an event is not among what the mode sees.
    monkeypatch.setattr(torch.cuda.Event, "synchronize", lambda _: pytest.fail("an event was waited for"))
    run.progress.advance, run.read = advanced, reading
    try:
        fit(run, until=30)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert made == [*range(1, 31)]


def test_the_fastest_way_is_found_on_a_gpu(tmp_path):
    run = Run(tiny(device="cuda", epochs=20, fast="auto", precision="auto"), tmp_path)
    assert "channels_last: " in run.timings
    assert "precision: " in run.timings
    fit(run, until=run.steps_per_epoch)
    run.tracker.writer.close()


def test_compiled_branches_train_alike_on_a_gpu(tmp_path):
    how = {"device": "cuda", "fast": "none", "epochs": 1}
    plain, compiled = (finish(tiny(compile=word, **how), tmp_path / word) for word in ("none", "branches"))
    ours, theirs = plain.supernet.state_dict(), compiled.supernet.state_dict()
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(theirs[name], ours[name], rtol=1e-3, atol=1e-3, msg=name)


@pytest.mark.parametrize("mixed", [{}, MIXED, {"resized_crop": 0.5, "cutout": 4}])
def test_batches_are_those_of_the_cpu(mixed):
    settings = tiny()
    settings = replace(settings, data=replace(settings.data, flip=True, **{"crop": 2, **mixed}))
    splits = load_splits(settings.data, settings.seed)
    here, there = (Batches.of(splits, settings, device=device) for device in ("cpu", GPU))
    for step in (0, 5, 12):
        (x, y), (x_there, y_there) = here.batch(step), there.batch(step)
        assert x_there.device.type == "cuda"
        others = ((x_there.cpu() - x).abs() > 0.02).float().mean()  # whose place is rounded to the next pixel
        assert others <= (0.01 if mixed else 0)
        torch.testing.assert_close(y_there.cpu(), y)


def test_a_trained_run_is_evaluated_and_exported_alike(tmp_path):
    run = finish(tiny(device="cuda"), tmp_path / "run")
    flags = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    assert (run.device.type, flags) == ("cuda", (False, False, True))
    trained = load_trained(tmp_path / "run")
    on_gpu = {found.architecture: found.loss for found in run.evaluate("val", [(1, 2), (2, 0)])}
    on_cpu = {found.architecture: found.loss for found in Evaluator.of(trained)(on_gpu)}
    assert on_gpu == pytest.approx(on_cpu, rel=1e-3)
    export(trained, (1, 2), tmp_path / "exported", images=8)
    network, x = load(tmp_path / "exported"), trained.sample()
    torch.testing.assert_close(network.to(GPU)(x.to(GPU)).cpu(), network.cpu()(x), atol=1e-4, rtol=1e-4)


def test_jacobians_and_kernels_are_those_of_the_cpu():
    convolutions = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4))
    square = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5))
    pictures, points = torch.randn(3, 2, 6, 6), torch.randn(3, 5)
    found = []
    for device in (torch.device("cpu"), GPU):
        deep, flat = convolutions.double().eval().to(device), square.double().to(device)
        x, z = pictures.double().to(device), points.double().to(device)
        found.append(
            [*(jacobian(deep, x, mode) for mode in ("auto", "forward", "reverse")), *slogdet(flat, z)]
            + [ntk(deep, x, method=method) for method in ("layerwise", "contraction", "products")]
        )
    for here, there in zip(*found, strict=True):
        assert there.device.type == "cuda"
        torch.testing.assert_close(there.cpu(), here, rtol=1e-9, atol=1e-9)


def test_closed_branches_take_no_memory_for_a_step():
    above = {}
    for branches in (2, 16):
        supernet = build_space(TwoBranchSettings(branches=branches)).supernet().to(GPU)
        step = TrainStep(supernet, GatedOptimizer(supernet, SGDSettings()))
        batch = torch.randn(64, 3, 32, 32, device=GPU), torch.zeros(64, dtype=torch.int64, device=GPU)
        for _ in range(2):
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            step(batch, [(1,)], 0.1)
        above[branches] = torch.cuda.max_memory_allocated() - before
    assert above[16] <= 1.1 * above[2]
