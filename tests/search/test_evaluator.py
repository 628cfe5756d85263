"""Evaluating many subnetworks at once finds what evaluating each alone finds, with less work."""

import copy
import weakref
from dataclasses import replace
from itertools import combinations, pairwise, product

import pytest
import torch
from support.archives import pixels_of
from support.chains import UnchainedNet, custom, images, lively
from support.runs import RUNS, assert_same, finish, tiny
from torch import nn

from nas.checkpoint import load_trained
from nas.errors import ArchitectureError, DivergedError, SettingError, SpaceError
from nas.search import Evaluator
from nas.settings import ChainSettings, MacroSettings
from nas.space import Chained, build_space
from nas.train import evaluate
from nas.train.evaluation.prefix import PrefixWalk, depths_to_keep

CHAIN = ChainSettings(widths=[4, 6], depths=[2, 1], strides=[1, 2], candidates=["skip", "conv1", "conv3"])
BATCHES, CALIBRATION = images(20, 8, seed=0), images(14, 7, seed=1)
LEVEL = 34 * 4 * 4 * 4 * 4
"""Bytes: 34 images of 4 channels of 4x4, behind the stem of CHAIN and behind its first two slots."""


def alone(supernet, architectures, batches=BATCHES, calibration=CALIBRATION, precision="float32"):
    """Each by itself, on a supernet of its own."""
    return {a: evaluate(supernet, [a], batches, calibration, None, precision)[0] for a in architectures}


def together(supernet, space, architectures, batches=BATCHES, calibration=CALIBRATION, **how):
    found = list(Evaluator(supernet, space, batches, calibration, **how)(architectures))
    assert len(found) == len({j.architecture for j in found})
    return {j.architecture: j for j in found}


def chain(merge="sum"):
    return build_space(replace(CHAIN, merge=merge), classes=3)


SPACES = {"sum": chain(), "concat": chain("concat"), "awkward": custom("AwkwardNet")}


@pytest.mark.parametrize("name", SPACES)
def test_each_is_what_it_is_alone(name):
    """One open gate or several, whatever the precision, the statistics and the memory format."""
    space = SPACES[name]
    supernet, everything = lively(space), list(space.enumerate())
    if name == "concat":
        everything += product([0, (0, 1)], [2, (0, 1, 2)], [(2, 1), (1,)])
    last = [[(x.contiguous(memory_format=torch.channels_last), y) for x, y in b] for b in (BATCHES, CALIBRATION)]
    for how in (
        {},
        {"calibration": None},
        {"precision": "bf16"},
        {"batches": last[0], "calibration": last[1]},
    ):
        expected = alone(supernet, everything, **how)
        assert together(supernet, space, everything, **how) == expected, how.keys()
        assert len({j.loss for j in expected.values()}) > len(everything) / 2  # they can be told apart


def test_macro_subnetworks_are_what_they_are_alone():
    space = build_space(MacroSettings(), classes=3)
    supernet = lively(space)
    some = [space.decode(text) for text in ("02012100", "02012101", "02012111", "02112100", "22222222", "02012102")]
    evaluator = Evaluator(supernet, space, BATCHES[:1], CALIBRATION[:1])
    assert {j.architecture: j for j in evaluator(some)} == alone(supernet, some, BATCHES[:1], CALIBRATION[:1])
    # 02012 shared by 4, 020121 by 4, 0201210 by 3: 5 + 1 + 1 + 3, then 1 + 1, then 02 and 6 more, then 8
    assert evaluator.block_evaluations == 10 + 2 + 6 + 8


def test_what_was_asked_before_does_not_matter():
    space = chain()
    supernet, everything = lively(space), list(space.enumerate())
    expected = alone(supernet, everything)
    for levels in (0, 1, 2, 3):
        evaluator = Evaluator(supernet, space, BATCHES, CALIBRATION, memory_bytes=levels * LEVEL)
        for some in everything[5:7], everything[::-2], everything[6:7], [everything[i] for i in (3, 20, 3)]:
            assert {j.architecture: j for j in evaluator(some)} == {a: expected[a] for a in some}, levels


def test_an_abandoned_evaluation_leaves_nothing_behind():
    space = chain()
    supernet, everything = lively(space), list(space.enumerate())
    evaluator = Evaluator(supernet, space, BATCHES, CALIBRATION)
    next(evaluator(everything))
    half = evaluator(everything)
    first = [next(half) for _ in range(10)]
    assert [*evaluator(everything)][:10] == first
    assert [*first, *half] == [*evaluator(everything)]  # two walks through one model, taken in turns


def test_results_are_distinct_and_in_lexicographic_order():
    space = chain()
    order = [(2, 0, 0), (0, 1, 0), (2, 0, 0), (0, (0, 1), 2), (0, 0, 1)]
    found = Evaluator(space.supernet(), space, BATCHES, None)(iter(order))
    assert [j.architecture for j in found] == [(0, 0, 1), (0, (0, 1), 2), (0, 1, 0), (2, 0, 0)]


def test_results_stream_and_small_chunks_cost_no_more():
    space = chain()
    supernet, everything = space.supernet(), list(space.enumerate())
    evaluator = Evaluator(supernet, space, BATCHES, CALIBRATION)
    counts = [evaluator.block_evaluations for _ in evaluator(everything)]
    assert counts[:5] == [3, 4, 5, 7, 8]
    assert counts[-1] == 3 + 9 + 27
    evaluator = Evaluator(supernet, space, BATCHES, CALIBRATION)
    for begin in range(0, 27, 4):
        assert len(list(evaluator(everything[begin : begin + 4]))) == len(everything[begin : begin + 4])
    assert evaluator.block_evaluations == 3 + 9 + 27


def test_evaluation_leaves_the_supernet_unchanged():
    space = custom("AwkwardNet")
    supernet = lively(space).train()
    before = copy.deepcopy(supernet.state_dict())
    random = torch.get_rng_state()
    together(supernet, space, space.enumerate())
    assert_same(supernet.state_dict(), before)
    assert all(module.training for module in supernet.modules())
    assert supernet.blocks[0].branches[1][1].momentum is None
    assert supernet.stem[1].momentum == 0.1
    assert not any(module._forward_pre_hooks for module in supernet.modules())
    assert torch.equal(torch.get_rng_state(), random)


def test_all_6561_subnetworks_take_9840_block_evaluations():
    space = custom("TrivialNet")
    ran = [0] * 8
    some = images(1, 1, seed=0, side=1)
    evaluator = Evaluator(space.supernet(), space, some, calibration=some)  # without a BatchNorm to calibrate
    for i, block in enumerate(evaluator._model.blocks):
        block.register_forward_hook(lambda *_, i=i: ran.__setitem__(i, ran[i] + 1))
    assert sum(1 for _ in evaluator(space.enumerate())) == 6561
    assert evaluator.block_evaluations == sum(ran) == 9840
    assert ran == [3**depth for depth in range(1, 9)]


def test_no_more_is_kept_than_allowed():
    space = chain()
    supernet, everything = lively(space), list(space.enumerate())
    plenty = None
    for memory, blocks in ((1 << 30, 39), (0, 81), (LEVEL - 1, 81), (LEVEL, 45), (2 * LEVEL, 39), (3 * LEVEL, 39)):
        walk = _Watched(copy.deepcopy(supernet), space, BATCHES, CALIBRATION, "float32", memory)
        found = dict(walk.logits(everything))
        plenty = plenty or found
        assert_same(found, plenty, str(memory))
        assert walk.most <= min(memory, 3 * LEVEL)  # nothing of a prefix that the walk has left
        assert walk.block_evaluations == walk.ran // (len(BATCHES) + len(CALIBRATION)) == blocks, memory
    walk = _Watched(copy.deepcopy(supernet), space, BATCHES, CALIBRATION, "float32", LEVEL)  # two walks, one budget
    for order in ([(0, 0, 0), (1, 0, 0)], [(1, 0, 0), (1, 0, 1), (1, 0, 2)]):  # behind the stem; behind two slots
        assert len(list(walk.logits(order))) == len(order)
    assert walk.block_evaluations == 3 + 3 + 2 + 3
    assert walk.most == LEVEL


class _Watched(PrefixWalk):
    """Looks at what is alive of the levels it has made, each time it makes another."""

    def __init__(self, model, *arguments):
        super().__init__(model, *arguments)
        self.made, self.most, self.ran = [], 0, 0
        for block in model.blocks:
            block.register_forward_hook(lambda *_: setattr(self, "ran", self.ran + 1))

    def _advance(self, level, depth, architecture):
        found = super()._advance(level, depth, architecture)
        if depth < len(self._pieces):
            self.made += [weakref.ref(x.untyped_storage()) for x in found.calibration + found.evaluated]
        self.most = max(self.most, self.kept())
        return found

    def kept(self):
        return sum({s._cdata: s.nbytes() for ref in self.made if (s := ref()) is not None}.values())


def test_what_is_kept_is_nearly_the_best_possible():
    random, ratios = torch.Generator().manual_seed(0), []
    for _ in range(40):
        growth = torch.randint(1, 4, (6,), generator=random)
        runs = [1, 1, *growth.cumprod(0).tolist()]
        sizes = [0, *torch.randint(1, 9, (6,), generator=random).tolist(), 0]
        budget = int(torch.randint(0, 30, (), generator=random))

        def cost(kept, runs=runs):
            return sum(runs[b] * (b - a) for a, b in pairwise([0, *kept, 7]))

        choices = [kept for n in range(7) for kept in combinations(range(1, 7), n)]
        fitting = [kept for kept in choices if sum(sizes[d] for d in kept) <= budget]
        kept = tuple(depths_to_keep(runs, sizes, budget))
        assert kept in fitting
        assert not any({*kept} < {*more} for more in fitting)
        ratios.append(cost(kept) / min(map(cost, fitting)))
    assert sum(ratios) / len(ratios) < 1.05
    assert max(ratios) < 2


def unchained(supernet):
    """The same network, which does not say that it is a chain."""
    supernet = copy.deepcopy(supernet)
    parts = {name: vars(type(supernet))[name] for name in ("prologue", "epilogue")}
    supernet.__class__ = type("Same", (nn.Module,), {"forward": Chained.forward, **parts})
    return supernet


def test_an_unchained_network_shares_nothing():
    space = custom("AwkwardNet")
    supernet, everything = unchained(lively(space)), list(space.enumerate())
    evaluator = Evaluator(supernet, space, BATCHES, CALIBRATION)
    assert not evaluator.shares_prefixes
    assert {j.architecture: j for j in evaluator(everything)} == alone(supernet, everything)
    assert evaluator.block_evaluations == 3 * len(everything)


def test_a_false_chain_is_refused():
    with pytest.raises(SpaceError, match="forward gives something else than its pieces in a row"):
        Evaluator(UnchainedNet(), custom("AwkwardNet"), BATCHES, CALIBRATION)


def test_evaluation_reports_a_nan_loss_and_goes_on():
    space = chain()
    supernet = lively(space)
    supernet.blocks[1].branches[2][0].weight.data[0, 0, 0, 0] = torch.inf
    fine = alone(supernet, [(0, 1, 2), (1, 0, 0)])
    for network in (supernet, unchained(supernet)):
        found = Evaluator(network, space, BATCHES, CALIBRATION)([(0, 1, 2), (0, 2, 0), (1, 0, 0)])
        assert next(found) == fine[0, 1, 2]
        with pytest.raises(DivergedError, match="architecture=0-2-0: its loss on the evaluated images is nan"):
            next(found)
        assert list(found) == [fine[1, 0, 0]]


def test_a_wrong_architecture_is_refused_first():
    evaluator = Evaluator(chain().supernet(), chain(), BATCHES, CALIBRATION)
    with pytest.raises(ArchitectureError):
        evaluator([(0, 0, 0), (0, 0, 3)])
    assert evaluator.block_evaluations == 0


def test_a_checkpoint_is_evaluated_as_in_its_run(tmp_path):
    run = finish(tiny(RUNS["chain-fair-adamw-ema"]), tmp_path)
    trained, everything = load_trained(tmp_path), list(run.space.enumerate())
    for split in ("val", "test"):
        assert list(Evaluator.of(trained, split)(everything)) == run.evaluate(split, everything)
    raw = Evaluator.of(trained, recalibrate=False)(everything)
    assert list(raw) == evaluate(trained.supernet, everything, trained.batches(trained.splits.val))
    with pytest.raises(SettingError, match=r"search\.split=all: must be train, val or test"):
        Evaluator.of(trained, "all")


def test_images_and_recalibration_images_can_be_set(tmp_path):
    run = finish(tiny(RUNS["chain-fair-adamw-ema"]), tmp_path)
    trained, some = load_trained(tmp_path), [(0, 1), (2, 2)]
    fewer, more = trained.held_out("val", 6), trained.held_out("val", 9)
    assert [len(images) for images in (fewer, more, trained.held_out("val"))] == [6, 9, len(trained.splits.val)]
    assert [int((fewer.labels == label).sum()) for label in range(3)] == [2, 2, 2]
    there = {image.numpy().tobytes() for image in pixels_of(more)}
    assert all(image.numpy().tobytes() in there for image in pixels_of(fewer))
    expected = evaluate(trained.supernet, some, trained.batches(fewer), trained.calibration(5))
    assert list(Evaluator.of(trained, images=6, recalibrate_images=5)(some)) == expected != run.evaluate("val", some)
    bounded = replace(trained.settings, evaluate=replace(trained.settings.evaluate, images=6))
    run.settings, everything = bounded, run.evaluate("test", some)
    as_run = replace(trained, settings=bounded)
    assert list(Evaluator.of(as_run)(some)) == run.evaluate("val", some)
    assert list(Evaluator.of(as_run, "test")(some)) == run.evaluate("test", some) == everything
    assert list(Evaluator.of(as_run, images=0)(some)) == list(Evaluator.of(trained)(some))


def test_by_batch_each_batch_has_its_own_statistics():
    for name, space in SPACES.items():
        supernet, everything = lively(space), list(space.enumerate())
        chained = Evaluator(supernet, space, BATCHES, None, by_batch=True)
        assert_same(
            chained.by_image(everything),
            Evaluator(unchained(supernet), space, BATCHES, None, by_batch=True).by_image(everything),
            name,
        )
        assert chained.block_evaluations < 3 * len(everything)
        x, y = BATCHES[1]
        own = evaluate(supernet, everything, [(x, y)], [(x, y)])
        for found in Evaluator(supernet, space, [(x, y)], None, by_batch=True)(everything):
            near = next(one for one in own if one.architecture == found.architecture)
            assert found.loss == pytest.approx(near.loss, rel=0.2)  # but for the unbiased variance
