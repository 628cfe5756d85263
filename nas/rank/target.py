"""What is ranked: a table of truth, its space, and the supernets and images that predictions are made with."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from nas.checkpoint import Trained, load_trained
from nas.data import Batch, Splits, load_splits
from nas.errors import CheckpointError, SettingError, require
from nas.score.benchmark import BenchmarkTable, load_table, table_space
from nas.score.proxies import check_names
from nas.score.run import training_batches
from nas.seeds import generator
from nas.settings import RankRunSettings, SpaceSettings
from nas.space import SearchSpace, build_space


@dataclass(frozen=True, eq=False)
class RankTarget:
    """All that predictions need."""

    space: SearchSpace
    space_settings: SpaceSettings
    truth: BenchmarkTable
    """The architectures that are ranked."""
    trained: list[Trained]
    """One a checkpoint; without any, nothing is asked of a supernet."""
    input_shape: tuple[int, int, int]
    """``(C, H, W)`` of one image; where there are none, costs are those for ``(3, 32, 32)``."""
    batches: list[Batch]
    """Two batches of training images for the proxies, of the first checkpoint or as ``data`` says; else none."""


def load_target(settings: RankRunSettings) -> RankTarget:
    """Load what ``settings`` name.

    Raises:
        NasError: a checkpoint, the images or the table cannot be had, they do not belong together, or only the table
            names the factory of a ``custom`` space.
    """
    if settings.proxies:
        check_names(settings.proxies)
    trained = [load_trained(path, settings.rank.progress, settings.factory) for path in settings.checkpoint]
    splits: Splits | None
    if trained:
        first, splits = trained[0], trained[0].splits
        for other in trained[1:]:
            if other.settings.space != first.settings.space:
                rule = f"is of another space than {first.path}"
                raise CheckpointError("checkpoint", other.path, rule, "rank checkpoints of different spaces one by one")
        space, space_settings = first.space, first.settings.space
    else:
        space_settings = settings.space or _space_of_table(settings.truth)
        if settings.data is None:
            ok = not settings.proxies
            remedy = "write for example data=cifar10"
            require(ok, "data", "null", "must be given: proxies look at images", remedy)
        splits = load_splits(settings.data, settings.seed, settings.rank.progress) if settings.data else None
        shape = (splits.channels, splits.image_size, len(splits.classes)) if splits else ()
        space = build_space(space_settings, *shape)
    truth = load_table(settings.truth, space, space_settings)
    input_shape = splits.input_shape if splits else (3, 32, 32)
    how = (2, settings.rank.proxy_images, settings.seed, "proxies", "rank.proxy_images")
    batches = training_batches(splits, *how) if splits and settings.proxies else []
    return RankTarget(space, space_settings, _sampled(truth, settings), trained, input_shape, batches)


def _space_of_table(source: str) -> SpaceSettings:
    space = table_space(source)
    if space is None:
        remedy = "write for example space=chain, or checkpoint=outputs/train/first"
        raise SettingError("space", "null", f"must be given: the table {source} does not say it", remedy)
    return space


def _sampled(truth: BenchmarkTable, settings: RankRunSettings) -> BenchmarkTable:
    """As many architectures of the table as are asked for, in the table's order."""
    total, number = len(truth.architectures), settings.architectures or len(truth.architectures)
    rule = f"the table has only {total}"
    require(number <= total, "architectures", number, rule, "write architectures=0 for all of them")
    require(total >= 2, "truth", settings.truth, f"has {total} architecture: one alone has no order", "give more")
    if number == total:
        return truth
    drawn = torch.randperm(total, generator=generator(settings.seed, "rank"))[:number]
    return truth.subset(drawn.sort().values)
