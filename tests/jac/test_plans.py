"""No plan is stale: whatever has changed since it was made, a call answers as one that records the network anew."""

import copy
import gc
import pickle
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from functools import partial
from itertools import product
from operator import attrgetter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.examples import example
from support.jac_references import chains, functional_jacobian, refused
from support.plan_answers import answer, answers, assert_as_fresh, assert_same, bounded, factored, with_gradients
from support.plan_changes import AROUND, ATTRIBUTES, CHANGES, INPUTS, Slotted, Switch, chain, linear, random
from torch import Tensor, nn

from nas.jac import jacobian, jacobian_det, set_plan_bytes, slogdet
from nas.jac.plan import store

pytestmark = pytest.mark.filterwarnings("error::UserWarning")  # such as torch's, when it resizes what it writes into


# The model changes


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_model_is_recorded_anew(name):
    x = random(4, 3).abs()
    for model in (chain(), chain(9)):  # cotangents through the one, tangents through the other
        answers(model, x, x[:1])
        CHANGES[name](model)
        assert_as_fresh(model, x, *([0 * x] if name == "steep at 0" else [x[:1], x.float()]))


BETWEEN = [nn.Tanh(), nn.ReLU(), nn.Sigmoid(), nn.Softmax(-1), nn.LogSoftmax(-1), nn.Identity(), nn.Sequential()]


@settings(max_examples=200, deadline=None)
@given(case=chains(BETWEEN))
def test_a_replay_answers_as_the_record_did(case):
    model, shape = case
    x, other = random(*shape), random(*shape)
    for change in (lambda model: None, CHANGES["step"]):
        jacobian(model, x)
        change(model)
        found = [jacobian(model, other) for _ in range(2)]
        with bounded(0):
            assert_same(found, [jacobian(model, other)] * 2)


@settings(max_examples=15, deadline=None)
@given(names=st.lists(st.sampled_from(sorted(CHANGES)), max_size=5), outputs=st.sampled_from([3, 9]))
def test_after_many_changes_a_copy_answers_alike(names, outputs):
    model, x = chain(outputs), random(2, 3)
    for name in ["step", *names]:
        with suppress(LookupError):  # some cannot be made twice, or after others
            answer(lambda model, _, name=name: CHANGES[name](model), model, x)
        found = answers(model, x)
        try:
            fresh = answers(copy.deepcopy(model), x)
        except RuntimeError:  # torch copies leaves alone
            continue
        for question, wanted in fresh.items():
            with example(names, question):
                assert_same(found[question], wanted)


def test_a_changed_attribute_is_recorded_anew():
    for make, name, value in ATTRIBUTES:
        model, x = nn.Sequential(linear(6, 6), nn.Sequential(*make())).double(), random(4, 6)
        with example(model, name):
            answers(model, x)
            setattr(model[1][-1], name, value)
            assert_as_fresh(model, x)


def test_code_replaced_for_a_whole_class_is_run(monkeypatch):
    for earlier, kind in product((True, False), (nn.Linear, nn.Tanh, nn.Sequential)):
        model, x = chain(), random(4, 3)
        if earlier:
            answers(model, x)
        with monkeypatch.context() as patch, example(earlier, kind):
            patch.setattr(kind, "forward", lambda self, x, original=kind.forward: 2 * original(self, x))
            wanted = functional_jacobian(model, x)
            assert torch.allclose(jacobian(model, x), wanted, rtol=1e-10)
            assert torch.allclose(jacobian_det(model, x), torch.linalg.det(wanted), rtol=1e-10)


def test_code_that_is_not_known_is_run_each_time():
    switch, x = Switch(), random(4, 3).abs()
    models = [switch.forward, nn.Sequential(linear(3, 3), switch), partial(switch), Slotted(), torch.tanh]
    for model, switch.factor in product(models, (2.0, torch.tensor(0.5).double())):
        with example(model, switch.factor):
            assert_as_fresh(model, -x, x)


# The input changes, and what is around the call


@pytest.mark.parametrize("name", INPUTS)
def test_another_input_is_answered_as_ever(name):
    x = random(4, 3)
    other, model, again = INPUTS[name](x), chain(), chain()
    answers(model, x)
    assert_as_fresh(model, *([] if other.is_meta else [other]), x)
    answers(again, other)
    assert_as_fresh(again, x)


@pytest.mark.parametrize("name", AROUND)
def test_circumstances_count_for_their_call_alone(name):
    x, model, other = random(4, 3).float(), chain().float(), chain().float()  # autocast leaves float64 alone
    answers(model, x)
    assert_as_fresh(model, x, around=AROUND[name])
    for _ in range(2):
        answers(other, x, around=AROUND[name])
    assert_as_fresh(other, x)
    weight = torch.ones((), requires_grad=True)
    (jacobian(other, x) * weight).sum().backward()


# Nothing is shared


def test_no_result_changes_with_a_later_call():
    model, x = chain(), random(4, 3)
    asks = [partial(jacobian, create_graph=True), jacobian_det, lambda m, x: slogdet(m, x).logabsdet]
    asks += [jacobian, lambda m, x: jacobian(m, x, factored=True).dense()]
    for ask in asks:
        for _ in range(2):
            wanted = with_gradients(ask(model, x), model, x)
        found, later = ask(model, x), ask(model, x + 1)
        assert_same(with_gradients(found, model, x), wanted)
        with_gradients(later, model, x)
        found.detach().fill_(7)
        assert_as_fresh(model, x)
    record = jacobian(model, x, factored=True)
    answers(model, x + 1)
    assert_same([record.dense(), record.value], factored(model, x))


def test_interruptions_and_recursion_do_no_harm(monkeypatch):
    model, x, events, tanh = chain(), random(4, 3), [], torch.tanh
    wanted = [jacobian(model, x), jacobian(model, x + 1)]

    def eventful(*args, **kwargs):
        if events:
            events.pop()()
        return tanh(*args, **kwargs)

    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "tanh", eventful)
    again = lambda: assert_same([jacobian(model, x + 1)], wanted[1:])  # noqa: E731
    for event, planned in product((interrupt, again), (False, True)):
        set_plan_bytes(set_plan_bytes(0))
        jacobian(model, x) if planned else None
        events.append(event)
        with pytest.raises(KeyboardInterrupt) if event is interrupt else nullcontext():
            assert_same([jacobian(model, x)], wanted[:1])
        assert not events
        for _ in range(2):
            assert_same([jacobian(model, x), jacobian(model, x + 1)], wanted)


def test_threads_do_not_meet_in_a_plan():
    model, inputs = chain(), [random(4, 3) for _ in range(4)]
    wanted = [answers(model, x) for x in inputs]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def work(number):
        for _ in range(10):
            for question, found in answers(model, inputs[number]).items():
                assert_same(found, wanted[number][question])
            if number == 3:
                set_plan_bytes(set_plan_bytes(0))

    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
    finally:
        sys.setswitchinterval(before)


# Lifetime and memory


def test_deleted_models_take_their_plans_along():
    gc.collect()
    before, gone = store.Plan.taken, []
    for owner, earlier in product(("nobody", "", "act", "first.weight"), (True, False)):
        model, x = chain(), random(4, 3)
        if earlier and owner != "first.weight":  # a parameter is looked at once
            jacobian(model, x)
        if owner != "nobody":
            (attrgetter(owner)(model) if owner else model).owner = [model]
        jacobian(model, x), jacobian_det(model, x)
        gone.append(weakref.ref(model))
    del model
    gc.collect()
    assert not any(model() for model in gone)
    assert store.Plan.taken == before


def test_a_copy_has_no_part_in_plans():
    model, x = chain(), random(4, 3)
    for again in (copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), copy.copy):
        answers(model, x)
        CHANGES["step"](other := again(model))
        assert_as_fresh(other, x)
        assert_as_fresh(model, x)


def held():
    """Bytes of all tensors there are."""
    tensors = [found for found in gc.get_objects() if type(found) in (Tensor, nn.Parameter)]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def test_plans_are_bounded_in_memory():
    sizes = (64, 64), (64, 8), (8, 64)
    models = [nn.Sequential(linear(a, 32), nn.Tanh(), linear(32, b), nn.Softmax(1)) for a, b in sizes]
    gc.collect()
    with bounded(0):
        start = held()
        set_plan_bytes(2**20)
        for model, batch in product(models, (40, 20, 10, 5, 1)):
            jacobian(model, random(batch, model[0].in_features))
            assert store.Plan.taken <= 2**20
        taken = store.Plan.taken
        jacobian(models[0], random(400, 64))  # too large to be kept
        assert store.Plan.taken == taken
        assert abs(held() - start - taken) <= taken / 3
        set_plan_bytes(2**17)
        assert 0 < store.Plan.taken <= 2**17
        assert all(all(kinds.values()) for kinds in store._waiting.values())
        set_plan_bytes(0)
        assert held() <= start
    for limit in (-1, None, "x", 1.5):
        with refused(f"limit={limit}"):
            set_plan_bytes(limit)
