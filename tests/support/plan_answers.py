"""What plans answer, and the same without plans."""

from contextlib import contextmanager
from itertools import product

import torch

from nas.jac import gram, jacobian, jacobian_det, set_plan_bytes, slogdet
from support.examples import example


def with_gradients(found, model, x):
    """Numbers and, where there is a tape, the gradients of a sum of them."""
    leaves = [leaf for leaf in (x, *getattr(model, "parameters", tuple)()) if leaf.requires_grad and leaf.is_leaf]
    if not found.requires_grad or not leaves:
        return [found]
    weights = torch.linspace(1, 2, found.numel(), dtype=found.dtype).view_as(found)
    gradients = torch.autograd.grad((found * weights).sum(), leaves, allow_unused=True, materialize_grads=True)
    return [found.detach(), *gradients]


def factored(model, x):
    record = jacobian(model, x, mode="layerwise", factored=True)
    return [record.dense(), record.value]


QUESTIONS = {
    "jacobian": lambda model, x: [jacobian(model, x)],
    "in halves": lambda model, x: [jacobian(model, x, mode="layerwise", chunk_bytes=200)],
    "small budget": lambda model, x: [jacobian(model, x, chunk_bytes=8)],
    "factored": factored,
    "taped": lambda model, x: with_gradients(jacobian(model, x, create_graph=True), model, x),
    "det": lambda model, x: with_gradients(jacobian_det(model, x), model, x),
    "slogdet": lambda model, x: with_gradients(slogdet(model, x).logabsdet, model, x),
    "gram": lambda model, x: [gram(model, x, x)],
}
REFUSALS = (RuntimeError, ValueError, TypeError, AttributeError)


def answer(ask, model, x):
    try:
        return ask(model, x)
    except REFUSALS as error:
        return [f"{type(error).__name__}: {error}"]


def answers(model, *inputs, around=lambda ask: ask):
    asked = product(QUESTIONS.items(), enumerate(inputs))
    return {(name, number): answer(around(ask), model, x) for (name, ask), (number, x) in asked}


@contextmanager
def bounded(limit):
    before = set_plan_bytes(limit)
    try:
        yield
    finally:
        set_plan_bytes(before)


def assert_as_fresh(model, *inputs, **options):
    """Twice, since the first call may make a plan."""
    before = [x.detach().clone() for x in inputs]
    found = [answers(model, *inputs, **options) for _ in range(2)]
    with bounded(0):
        fresh = answers(model, *inputs, **options)
    for one, question in product(found, fresh):
        with example(question):
            assert_same(one[question], fresh[question])
    assert_same([x.detach() for x in inputs], before)


def assert_same(found, wanted):
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        if isinstance(ours, str) or isinstance(theirs, str):
            words = slice(1) if "RuntimeError" in str(ours) else slice(None)  # of torch
            assert str(ours).split()[words] == str(theirs).split()[words]
            continue
        kinds = [(t.shape, t.dtype, type(t), t.requires_grad, t.is_inference()) for t in (ours, theirs)]
        assert kinds[0] == kinds[1]
        assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-12, equal_nan=True)
