"""Plans that wait for their next call, by model and kind of call, within a bound of memory."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import TypeVar
from weakref import WeakKeyDictionary

from torch import nn

from nas.jac.errors import JacobianError
from nas.jac.plan.guard import Guard

OBJECTS = 2**13
"""About what the Python objects of a plan take, in bytes."""
_lock = threading.RLock()  # a plan may die while this thread counts
_waiting: WeakKeyDictionary[nn.Module, dict[Hashable, list[Plan]]] = WeakKeyDictionary()
_NONE: dict[Hashable, list[Plan]] = {}


class _Count:
    limit = 2**26
    """Bytes that plans may take: 64 MiB."""
    taken = 0
    """Bytes of all plans there are, waiting or in use."""


class Plan:
    """What one kind of call on one model computes, ready to be replayed by one call at a time.

    Args:
        guard: of the model.
        size: of its memory, in bytes.
    """

    def __init__(self, guard: Guard, size: int) -> None:
        self.guard, self.size = guard, size + OBJECTS
        self.home: list[Plan] | None = None
        with _lock:
            _Count.taken += self.size

    def __del__(self) -> None:
        with _lock:
            _Count.taken -= self.size


P = TypeVar("P", bound=Plan)


def take(model: nn.Module, key: Hashable, kind: type[P]) -> P | None:
    """A plan of this kind that nobody else uses and that still holds; None where there is none."""
    plans = _waiting.get(model, _NONE).get((kind, key))
    try:
        plan = plans.pop() if plans else None
    except IndexError:  # another thread has taken the last one
        return None
    if plan is None or plan.guard.holds():
        if plan is not None:
            plan.home = plans
        return plan  # type: ignore[return-value]
    with _lock:
        _waiting.pop(model, None)  # what has changed concerns all of them
    return None


def give(model: nn.Module, key: Hashable, plan: Plan) -> None:
    """Keep a plan for the next call, if there is room, at the cost of older ones."""
    if plan.size > _Count.limit:  # the others would make room for nothing
        return
    if _Count.taken > _Count.limit:
        _make_room(plan.home)
        if _Count.taken > _Count.limit:
            return
    home, plan.home = plan.home, None  # lest a plan that is dropped keeps itself alive
    if home is not None:
        home.append(plan)
        return
    with _lock:
        _waiting.setdefault(model, {}).setdefault((type(plan), key), []).append(plan)


def plans_are_kept() -> bool:
    """Whether there may be any."""
    return _Count.limit > 0


def set_plan_bytes(limit: int) -> int:
    """Bound the memory of plans, which make repeated calls of ``jacobian`` and ``jacobian_det`` on one model faster.

    A plan is made by the first call with inputs of a shape and replayed by the following ones. Those that wait for
    their next call are dropped, oldest first, when all plans together exceed the bound. A plan also holds the memory
    that parameters had, until the next call on that model: after ``model.float()`` the old weights stay so long.

    Args:
        limit: bytes, 64 MiB at first; 0 keeps no plan, so that each call records the network anew.

    Returns:
        The bound before.

    Raises:
        JacobianError: ``limit`` is negative.
    """
    if limit < 0:
        raise JacobianError("limit", limit, "must be at least 0 bytes", "use 0 to keep no plans")
    with _lock:
        before, _Count.limit = _Count.limit, int(limit)
    _make_room()
    return before


def _make_room(spared: list[Plan] | None = None) -> None:
    """Drop plans until the others are within the bound, and lists that are empty then, but for one."""
    with _lock:
        for reference in _waiting.keyrefs():  # a list, whatever the garbage collector brings back meanwhile
            model = reference()
            kinds = {} if model is None else _waiting.get(model, {})
            for kind, plans in list(kinds.items()):
                while plans and (_Count.taken > _Count.limit or _Count.limit == 0):
                    plans.pop(0)
                if not plans and plans is not spared:
                    del kinds[kind]
            if model is not None and not kinds:
                _waiting.pop(model, None)
