"""Plans that wait for their next call, by model and kind of call, within a bound of memory."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from nas.jac.errors import JacobianError
from nas.jac.plan.guard import Guard

OBJECTS = 2**13
"""About what the Python objects of a plan take, in bytes."""
_waiting: WeakKeyDictionary[nn.Module, dict[Hashable, list[Plan]]] = WeakKeyDictionary()
_lock = threading.RLock()  # a plan may die while this thread counts; at exit, after what is above has gone
_NONE: dict[Hashable, list[Plan]] = {}


class Plan:
    """What one kind of call on one model computes, ready to be replayed by one call at a time; ``size`` in bytes."""

    limit, taken = 2**26, 0
    """Bytes that plans may take, and that all there are take, waiting or in use."""

    def __init__(self, guard: Guard, size: int) -> None:
        self.guard, self.size = guard, size + OBJECTS
        self.home: list[Plan] | None = None  # where it waited before this call
        with _lock:
            Plan.taken += self.size

    def __del__(self) -> None:
        with _lock:
            Plan.taken -= self.size


def take(model: nn.Module, key: Hashable) -> Any:
    """A plan of this kind that nobody else uses and that still holds; None where there is none."""
    plans = _waiting.get(model, _NONE).get(key)
    try:
        plan = plans.pop() if plans else None
    except IndexError:  # another thread has taken the last one
        return None
    if plan is None or plan.guard.holds():
        if plan is not None:
            plan.home = plans
        return plan
    with _lock:
        _waiting.pop(model, None)  # what has changed concerns all of them
    return None


def give(model: nn.Module, key: Hashable, plan: Plan) -> None:
    """Keep a plan for the next call; a new one, if there is room, at the cost of older ones."""
    home, plan.home = plan.home, None  # lest a plan that is dropped keeps itself alive
    if home is None:
        if plan.size > Plan.limit:  # others would make room for nothing
            return
        with _lock:
            _make_room()
            if Plan.taken > Plan.limit:
                return
            home = _waiting.setdefault(model, {}).setdefault(key, [])
    home.append(plan)


def set_plan_bytes(limit: int) -> int:
    """Bound the memory of plans, which make repeated calls of ``jacobian`` and ``jacobian_det`` on one model faster.

    A plan is made by the first call with inputs of a shape and replayed by the following ones. Those that wait for
    their next call are dropped, oldest first, when all plans together exceed the bound. A plan also holds the
    memory that parameters had, until the next call on that model: after ``model.float()`` the old weights stay so long.

    Args:
        limit: bytes, 64 MiB at first; 0 keeps no plan, so that each call records the network anew.

    Returns:
        The bound before.

    Raises:
        JacobianError: ``limit`` is negative, or no whole number.
    """
    if not isinstance(limit, int) or limit < 0:
        raise JacobianError("limit", limit, "must be a number of bytes, at least 0", "use 0 to keep no plans")
    with _lock:
        before, Plan.limit = Plan.limit, limit
        _make_room()
    return before


def _make_room() -> None:
    """Drop plans, the oldest model's first, until all are within the bound; those in use when they return."""
    if Plan.taken > Plan.limit:
        for kinds in list(_waiting.values()):
            for kind in list(kinds):
                if Plan.taken > Plan.limit:
                    del kinds[kind]
