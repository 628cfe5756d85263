"""What a run needs in memory, found before any of it is taken."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from nas.cost.allocator import KEEP_BYTES, MMAP_BYTES
from nas.cost.memory import PathMemory, largest_path, path_memory, supernet_bytes, without_memory
from nas.data.size import DataSize
from nas.dist import SINGLE, synchronise
from nas.errors import ArchitectureError
from nas.nn import Active, WeightedBranch
from nas.settings import (
    AdamWSettings,
    CustomSettings,
    FairGateSettings,
    FixedGateSettings,
    LearnedGateSettings,
    SGDSettings,
    TrainRunSettings,
)
from nas.space import Architecture, SearchSpace, build_space


@dataclass(frozen=True)
class Network:
    """What has to be known of a supernet; all in bytes.

    Attributes:
        parameters, buffers: of the whole supernet.
        path: of the largest path that may run; None where the network cannot be run without being built.
    """

    parameters: int
    buffers: int
    path: PathMemory | None


@dataclass(frozen=True)
class MemoryNeeds:
    """What one process of a run needs, in bytes, by what it is for.

    All are held at once, but for the last four: they come at times of their own, when there are neither gradients nor
    activations; and ``loading`` before there are parameters.

    Attributes:
        process: the interpreter with torch in it.
        parameters: of the whole supernet with its buffers, and of the copy on which FLOPs are counted.
        moments: of the optimizer, and the moving average of the weights; closed branches have them too.
        data: the splits, and the training pictures with their border.
        gradients: of the parameters that the paths of a step use.
        activations: of the largest path, and an estimate of what its backward pass takes on top.
        loading: the data set while it is being read, split and thinned out.
        evaluation: a copy of the supernet, all pictures of a split normalised, and a batch's way through it.
        saving: the checkpoint on its way to the disk.
        kept: what the process does not give back to the system of what a step has freed, while it saves.
    """

    process: int = 0
    parameters: int = 0
    moments: int = 0
    data: int = 0
    gradients: int = 0
    activations: int = 0
    loading: int = 0
    evaluation: int = 0
    saving: int = 0
    kept: int = 0

    def parts(self) -> dict[str, int]:
        """What is held together at the fullest time, in words for a message."""
        held = {"parameters": self.parameters, "moments": self.moments, "data": self.data}
        training = {"gradients": self.gradients, "activations of the largest path": self.activations}
        times: list[dict[str, int]] = [
            {**held, **training},
            {**held, "evaluation": self.evaluation},
            {**held, "activations of the largest path": self.kept, "a checkpoint": self.saving},
            {"loading the data": self.loading},
        ]
        fullest = max(range(len(times)), key=lambda i: sum(times[i].values()))
        return {**times[fullest], "process": self.process}

    @property
    def total(self) -> int:
        """Bytes at the fullest time."""
        return sum(self.parts().values())


def network_of(settings: TrainRunSettings, size: DataSize, processes: int = 1) -> Network:
    """What the supernet of ``settings`` needs, found on torch's meta device.

    Only a user's own network is built for it, since nobody knows what its factory would do on another device. Where
    it does not run on the meta device, its activations are not known.
    """
    picture = (size.channels, size.image_size, size.image_size)
    shape = (settings.space, size.channels, size.image_size, size.classes)
    if isinstance(settings.space, CustomSettings):
        space = build_space(*shape)
        supernet = without_memory(space.supernet(settings.seed))
    else:
        with torch.device("meta"):
            space = build_space(*shape)
            supernet = space.supernet(settings.seed)
    if processes > 1 and settings.dist.batchnorm == "sync":  # such layers keep more for the backward pass
        synchronise(supernet, SINGLE)
    parameters, buffers = supernet_bytes(supernet)
    path: PathMemory | None
    try:
        precision, one = settings.train.precision, _fixed(settings, space)
        if one is not None:
            path = path_memory(supernet, picture, one, precision)
        else:
            one, path = largest_path(space, supernet, picture, precision)
        if isinstance(settings.gate, LearnedGateSettings):  # a step of its logits keeps more than one of the weights
            path = path_memory(supernet, picture, tuple(map(_weighted, one)), precision)
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError):
        path = None  # Run tries it on real pictures and says what is wrong with it, if anything is
    return Network(parameters, buffers, path)


def _weighted(entry: Active) -> Active:
    return WeightedBranch(entry, torch.ones((), device="meta", requires_grad=True)) if isinstance(entry, int) else entry


def _fixed(settings: TrainRunSettings, space: SearchSpace) -> Architecture | None:
    """The one architecture that is trained, if there is one that is known."""
    gate = settings.gate
    text = gate.architecture if isinstance(gate, FixedGateSettings) else settings.architecture
    try:
        return space.decode(text) if text else None
    except ArchitectureError:  # "best" of another run; or wrong, which is told where it is used
        return None


def needs_of(
    settings: TrainRunSettings, network: Network, size: DataSize, processes: int = 1, where: str = "cpu"
) -> MemoryNeeds:
    """What each process of a run needs, without what the process takes already.

    Args:
        settings: of the run.
        network: ``network_of(settings, size)``.
        size: ``data_size(settings.data)``.
        processes: that share each batch.
        where: ``cpu`` where all is in the machine's memory; or one of the two sides of a run on a GPU, ``cuda`` for
            the GPU's memory and ``host`` for what is left in the machine's.
    """
    train, evaluate = settings.train, settings.evaluate
    one = isinstance(settings.gate, FixedGateSettings) or bool(settings.architecture)
    path = network.path or PathMemory(network.parameters, 0, ())
    supernet = network.parameters + network.buffers

    used = path.gradients if one else network.parameters
    moments = network.parameters * bool(train.ema_decay)
    match settings.optimizer:
        case SGDSettings() as sgd:
            moments += network.parameters * bool(sgd.momentum)  # there from the start
        case AdamWSettings():
            moments += 2 * used
    whole_round = isinstance(settings.gate, FairGateSettings) and settings.gate.mode == "accumulate"
    gradients = network.parameters if whole_round and not one else path.gradients
    if processes > 1:
        gradients *= 2  # and the buffer in which they travel

    batch = -(-min(train.batch_size, size.train) // processes)
    judged = max(size.val, size.test)
    calibration = min(evaluate.recalibrate_images, size.train) * evaluate.recalibrate
    pictures = size.floats_bytes(judged + calibration) + calibration * size.values
    evaluation = supernet + pictures + path.evaluation(min(evaluate.batch_size, judged))
    streams = size.stream_bytes(size.train)
    if isinstance(settings.gate, LearnedGateSettings):
        streams += size.stream_bytes(size.val)

    if where == "host":
        data, saving = size.splits_bytes, supernet + moments
        return MemoryNeeds(0, 2 * supernet, 0, data, loading=size.loading_bytes, saving=saving)
    activations = path.activations(batch) + path.workspace(batch)
    if isinstance(settings.gate, LearnedGateSettings):
        activations += size.floats_bytes(batch)  # the pictures of the step before
    if where == "cuda":
        streams = max(streams, size.train * size.values)  # without a border too it is a copy
        way = streams + size.train * size.values
        return MemoryNeeds(0, supernet, moments, streams, gradients, activations, way, evaluation)
    # Small blocks lie in a heap that does not shrink (see keep_freed_memory) and that paths of many sizes leave holes
    # in; what it has free serves the next small blocks, and nothing as large as a checkpoint. A batch is made in five
    # copies of its bytes.
    heap = gradients + path.in_tensors_below(MMAP_BYTES, batch) + 5 * size.values * batch
    holes = min(heap // 2, KEEP_BYTES // 2)
    activations, kept = activations + holes, min(heap + holes, KEEP_BYTES)
    if size.floats_bytes(evaluate.batch_size) >= MMAP_BYTES:
        evaluation += kept
    return MemoryNeeds(
        parameters=2 * supernet,
        moments=moments,
        data=size.splits_bytes + streams,
        gradients=gradients,
        activations=activations,
        loading=size.loading_bytes,
        evaluation=evaluation,
        saving=supernet + moments,
        kept=kept,
    )
