"""Whether a run may have the memory that it needs: said in one line, or refused in one, before anything is loaded."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from nas.cost.machine import MemoryLimit, available_bytes, memory_limits
from nas.data.size import DataSize, data_size
from nas.dist import choose_device
from nas.errors import NasError, NasWarning
from nas.settings import SyntheticSettings, TrainRunSettings
from nas.train.needs import MemoryNeeds, Network, needs_of, network_of

GIB = 2**30
LATER = 64 * 2**20
"""Bytes of libraries and their threads that a run loads after it was asked what it needs: measured, 30 to 60 MB."""


class MemoryLimitError(NasError):
    """A run that needs more memory than it may have."""


def check_memory(
    settings: TrainRunSettings, processes: int = 1, here: int | None = None, local_rank: int | None = None
) -> str:
    """See to it that a run fits into memory, before anything is loaded or built.

    What activations take besides what is kept for the backward pass, what an evaluation takes, and what the libraries
    allocate for themselves are estimates; the sum is meant to be above rather than below. Compiled branches and what
    a user's own network keeps in other places than tensors are not counted.

    Args:
        settings: of the run.
        processes: that share each batch.
        here: how many of them are on this machine, and share its memory; None for all of them.
        local_rank: of this one among several here.

    Returns:
        one line for the user, where a limit is set or more than half of the memory is needed; else an empty string.

    Raises:
        MemoryLimitError: it cannot fit.
        NasError: the settings describe no space, or a device that is not there.

    Warns:
        NasWarning: it fits, but other processes leave less than that at the moment.
    """
    size = data_size(settings.data)
    if size is None:
        return ""
    network = network_of(settings, size, processes)
    device = choose_device(settings.train.device, local_rank)
    on_gpu = device.type == "cuda"
    lines: list[str] = []
    for limit in memory_limits():
        count = 1 if limit.each else here or processes
        lines += _under(limit, count, settings, network, size, processes, "host" if on_gpu else "cpu")
    if on_gpu:
        free, total = torch.cuda.mem_get_info(device)
        limit = MemoryLimit(f"the memory of {device}", total, total - free, each=True, set=False)
        lines += _under(limit, 1, settings, network, size, processes, "cuda")
    return lines[0] if lines else ""


def _under(
    limit: MemoryLimit,
    count: int,
    settings: TrainRunSettings,
    network: Network,
    size: DataSize,
    processes: int,
    where: str,
) -> Iterator[str]:
    """What is to be said of a run of which ``count`` processes are under ``limit``, if anything is."""
    later = 0 if where == "cuda" else LATER

    def needs(changed: TrainRunSettings, size: DataSize) -> MemoryNeeds:
        found = needs_of(changed, network, size, processes, where)
        return replace(found, process=limit.process + later)

    own = needs(settings, size)
    total = count * own.total
    among = f" in {count} processes" if count > 1 else ""
    parts = ", ".join(f"{name} {_gib(count * part)}" for name, part in own.parts().items() if count * part > GIB / 100)
    need = f"needs about {_gib(total)} GiB{among} ({parts})"
    if total > limit.bytes:
        rule = f"the run {need}, {limit.name} is {_gib(limit.bytes)} GiB"
        for key, words, changed in _smaller(settings, size, processes):
            if count * needs(changed, _size(changed, size)).total <= limit.bytes:
                raise MemoryLimitError(key, _value(settings, key), rule, f"write {words}")
        process = count * (limit.process + later)
        if process > limit.bytes or 2 * process > total:
            raise MemoryLimitError(limit.name.removeprefix("the "), f"{_gib(limit.bytes)} GiB", rule, "raise it")
        raise MemoryLimitError("space", settings.space.name, rule, "take a smaller space or data set, or more memory")
    left = available_bytes() if not limit.set and where != "cuda" else None
    if left is not None and total - count * limit.process > left:
        message = f"the run {need}, other processes leave {_gib(left)} GiB of {limit.name} at the moment"
        warnings.warn(message, NasWarning, stacklevel=3)
    if limit.set or 2 * total > limit.bytes:
        yield f"{need}; {limit.name} is {_gib(limit.bytes)} GiB"


def _smaller(settings: TrainRunSettings, size: DataSize, processes: int) -> Iterator[tuple[str, str, TrainRunSettings]]:
    """Ways to need less, the mildest first: the setting that is too large, what to write, and the settings then."""
    train, evaluate, data = settings.train, settings.evaluate, settings.data
    powers = [2**exponent for exponent in range(30, 0, -1)]
    batches = [power * processes for power in powers if power * processes < train.batch_size]
    for number in batches:
        words = f"train.batch_size={number} or less"
        yield "train.batch_size", words, replace(settings, train=replace(train, batch_size=number))
    for number in (power for power in powers if power < evaluate.batch_size):
        words = f"evaluate.batch_size={number} or less"
        yield "evaluate.batch_size", words, replace(settings, evaluate=replace(evaluate, batch_size=number))
    synthetic = isinstance(data, SyntheticSettings)
    name, most = ("size", size.pool) if synthetic else ("train_images", size.train)
    small = next((number for number in batches if number <= 64), train.batch_size)
    for batch in dict.fromkeys((train.batch_size, small)):
        more = f" train.batch_size={batch}" if batch != train.batch_size else ""
        for number in _round_numbers():
            if max(batch * 2, 10 * size.classes) <= number < most:
                fewer = replace(data, size=number) if synthetic else replace(data, train_images=number)  # type: ignore[call-arg]
                changed = replace(settings, data=fewer, train=replace(train, batch_size=batch))
                yield f"data.{name}", f"data.{name}={number}{more} or less", changed


def _value(settings: TrainRunSettings, key: str) -> object:
    part, name = key.split(".")
    return getattr(getattr(settings, part), name)


def _round_numbers() -> Iterator[int]:
    for power in range(9, 0, -1):
        for digit in (5, 2, 1):
            yield digit * 10**power


def _size(settings: TrainRunSettings, size: DataSize) -> DataSize:
    """The size of the data set under other settings, without counting files again."""
    pool, test, data = size.pool, size.test, settings.data
    if isinstance(data, SyntheticSettings):
        pool, test = data.size, max(1, data.size // 4)
    val = round(data.val_fraction * pool)
    return replace(size, pool=pool, test=test, val=val, train=min(data.train_images or pool, pool - val))


def _gib(number: int) -> str:
    return f"{number / GIB:.2f}"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` is Python's or torch's word for memory that could not be had."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


@contextmanager
def out_of_memory_told(settings: TrainRunSettings) -> Iterator[None]:
    """Tell of memory that runs out inside in a user's words.

    Raises:
        MemoryLimitError: it ran out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        batch, said = settings.train.batch_size, str(error).strip().splitlines() or ["no more memory"]
        remedy = (
            f"write train.batch_size={max(2, batch // 2)} and another run=NAME, or go on where there is more memory"
        )
        raise MemoryLimitError("train.batch_size", batch, f"memory ran out ({said[0][:200]})", remedy) from error
