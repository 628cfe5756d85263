"""Whether a training run fits into memory: estimated before it begins, and explained where memory runs out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.cost.limits import UNLIMITED, memory_limits
from nas.cost.paths import PathCost
from nas.data import DataSize, expected_size
from nas.errors import ArchitectureError, MemoryLimitError
from nas.settings import AdamWSettings, FixedGateSettings, SGDSettings, SyntheticSettings, TrainRunSettings
from nas.space import Architecture, SearchSpace, build_space

GIB = 2**30
IMAGES = 7
"""Of the batch that is counted with. A saved tensor whose first dimension it divides has a part for each image."""


class SavedBytes(PathCost):
    """Bytes that any path saves for its backward pass, for each image of a batch.

    Args:
        space, supernet: what is counted, by running the supernet on the CPU in the mode that it is in.
        input_shape: ``(C, H, W)`` of one image.
        precision: ``float32`` or ``bf16``, as in ``train.way.precision``.
    """

    def __init__(
        self, space: SearchSpace, supernet: nn.Module, input_shape: tuple[int, int, int], precision: str = "float32"
    ) -> None:
        self._supernet, self._images, self._bf16 = supernet, torch.zeros(IMAGES, *input_shape), precision == "bf16"
        super().__init__(space)

    def count(self, architecture: Architecture) -> int:
        """The bytes of any architecture, from a forward pass; parameters and buffers do not count."""
        constant = {_address(tensor) for tensor in (*self._supernet.parameters(), *self._supernet.buffers())}
        saved: dict[int, Tensor] = {}  # holds the tensors, so that no address is used twice

        def save(tensor: Tensor) -> Tensor:
            if _address(tensor) not in constant and tensor.dim() and tensor.shape[0] % IMAGES == 0:
                saved[_address(tensor)] = tensor
            return tensor

        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
            with torch.autocast("cpu", torch.bfloat16, enabled=self._bf16):
                logits = self._supernet(self._images, architecture)
            F.cross_entropy(logits.float(), torch.zeros(IMAGES, dtype=torch.int64))
        return sum(tensor.untyped_storage().nbytes() for tensor in saved.values()) // IMAGES


def estimate_memory(
    settings: TrainRunSettings, size: DataSize, processes: int = 1, most: int = UNLIMITED, enough: int = 0
) -> dict[str, int]:
    """Bytes that each process of a run holds at least, by what they are for.

    These are the weights and the copy on which FLOPs are counted; the moments of the optimizer and the moving average
    of the weights; all images that are not mapped from a file; and the activations that the largest path
    saves for its backward pass. What comes and goes inside a step is left out.

    Args:
        settings: of the run.
        size: of its data set.
        processes: that share each batch.
        most: bytes; a supernet that is larger is not built, so that its activations are not counted.
        enough: bytes; where even a path with all branches open needs no more, its activations are taken, and the
            largest path is not looked for, which takes a forward pass for each choice.
    """
    (channels, side, _), custom = size.input_shape, bool(settings.space.called)
    with nullcontext() if custom else torch.device("meta"):  # nobody knows what a user's factory does on "meta"
        space = build_space(settings.space.without_weights(), channels, side, size.classes)
        space = space.opened(settings.gate.numbers)
        supernet = space.supernet(settings.seed)
    parameters, buffers = _bytes(supernet.parameters()), _bytes(supernet.buffers())
    only = settings.gate.architecture if isinstance(settings.gate, FixedGateSettings) else settings.architecture
    moments = parameters * bool(settings.train.ema_decay)
    match settings.optimizer:
        case SGDSettings(momentum=momentum):
            moments += parameters * bool(momentum)
        case AdamWSettings() if not only:  # it makes those of closed branches when they first run
            moments += 2 * parameters
    parts = {"weights": 2 * (parameters + buffers), "moments": moments, "data": size.bytes}
    held, images, per_image = sum(parts.values()), -(-min(settings.train.batch_size, size.images) // processes), 0
    if 2 * parameters + moments <= most:
        try:
            supernet = supernet if custom else space.supernet(settings.seed)
            saved = SavedBytes(space, supernet, size.input_shape, settings.train.way.precision)
            all_open = tuple(tuple(range(len(slot.choices))) for slot in space.slots)
            if only:
                per_image = saved.count(space.decode(only))
            elif held > enough or held + (per_image := saved.count(all_open)) * images > enough:
                per_image = saved.count(saved.largest()[0])
        except (ArchitectureError, RuntimeError, ValueError, TypeError, LookupError, AttributeError):
            pass  # it is the best one of another run, or Run explains what is wrong with it
    return parts | {"activations": per_image * images}


def check_memory(settings: TrainRunSettings, device: torch.device, processes: int = 1, here: int | None = None) -> str:
    """Refuse a run that obviously cannot fit into memory, before anything is loaded or written.

    Args:
        settings: of the run.
        device: where it trains.
        processes: that share each batch.
        here: how many of them are on this machine and share its memory; None for all of them.

    Returns:
        One line for the user where somebody set a limit or more than half of the memory is needed; else "".

    Raises:
        MemoryLimitError: it cannot fit; the error names the setting to change.
    """
    if (size := expected_size(settings.data)) is None:
        return ""  # loading explains what is wrong with the data
    limits, lines = memory_limits(device, here or processes), []
    most = min((limit.bytes for limit in limits), default=UNLIMITED)
    enough = min((0 if one.chosen else one.bytes // (2 * one.sharing) - one.used for one in limits), default=UNLIMITED)
    estimate = estimate_memory(settings, size, processes, most, enough)
    for limit in limits:
        kinds = ("weights", "data") if device.type == "cuda" and limit.on == "cpu" else tuple(estimate)
        parts = {kind: limit.sharing * estimate[kind] for kind in kinds} | {"process": limit.sharing * limit.used}
        total, among = sum(parts.values()), f" in {limit.sharing} processes" if limit.sharing > 1 else ""
        words = ", ".join(f"{name} {part / GIB:.2f}" for name, part in parts.items() if part > GIB / 100)
        line = f"needs about {total / GIB:.2f} GiB{among} ({words}), {limit.name} is {limit.bytes / GIB:.2f} GiB"
        if total > limit.bytes:
            raise _refusal(settings, parts, limit.bytes, f"the run {line}")
        if limit.chosen or 2 * total > limit.bytes:
            lines.append(line)
    return lines[0] if lines else ""


def _refusal(settings: TrainRunSettings, parts: dict[str, int], limit: int, rule: str) -> MemoryLimitError:
    """The error that names the setting to change: the batch size if that is enough, else what holds most."""
    batch, activations = settings.train.batch_size, parts.pop("activations", 0)
    fitting = batch * (limit - sum(parts.values())) // max(1, activations)
    if activations and fitting >= 2:
        remedy = f"write train.batch_size={1 << (fitting.bit_length() - 1)} or less"
        return MemoryLimitError("train.batch_size", batch, rule, remedy)
    if max(parts, key=lambda name: parts[name]) == "data":
        if isinstance(settings.data, SyntheticSettings):
            return MemoryLimitError("data.size", settings.data.size, rule, "write a smaller data.size")
        remedy = "take a smaller data set, more memory, or data=folder, which needs none for its images"
        return MemoryLimitError("data", settings.data.name, rule, remedy)
    return MemoryLimitError("space", settings.space.name, rule, "take a smaller space, or more memory")


@contextmanager
def explain_out_of_memory(settings: TrainRunSettings) -> Iterator[None]:
    """Turn memory that runs out inside into a :class:`MemoryLimitError`, one line with the settings to change."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)):
            raise
        batch, said = settings.train.batch_size, str(error).strip().splitlines() or ["no more memory"]
        remedy = f"write train.batch_size={max(2, batch // 2)} or a smaller evaluate.batch_size, and another run=NAME"
        raise MemoryLimitError("train.batch_size", batch, f"memory ran out ({said[0][:200]})", remedy) from error


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
