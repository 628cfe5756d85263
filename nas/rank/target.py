"""What is ranked: a benchmark table and its space, and the supernets and images that predictions need."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch

from nas.checkpoint import Trained, load_trained
from nas.data import Batch, Splits, load_splits
from nas.errors import CheckpointError, NasWarning, SettingError, require
from nas.nn import indices_of
from nas.score.benchmark import BenchmarkTable, load_table, table_space
from nas.score.proxies import check_names
from nas.score.run import training_batches
from nas.seeds import generator
from nas.settings import RankRunSettings, SpaceSettings
from nas.settings.rank import SURROGATE
from nas.space import SearchSpace, build_space, infer_widths
from nas.threads import passes


@dataclass(frozen=True, eq=False)
class RankTarget:
    """Everything that predictions need."""

    space: SearchSpace
    space_settings: SpaceSettings
    truth: BenchmarkTable
    """The architectures to rank, with their accuracies."""
    trained: list[Trained]
    """One for each checkpoint; if empty, no supernet predicts."""
    input_shape: tuple[int, int, int]
    """``(C, H, W)`` of one image; without images, costs are those for ``(3, 32, 32)``."""
    batches: list[Batch]
    """Two batches of training images for the proxies, from the first checkpoint's data or from ``data``; else none."""

    def piece_of_work(self) -> Callable[[], object]:
        """What most of the time goes to, to find the better number of threads: a pass through the supernet."""
        architectures = self.truth.architectures[:4]
        if self.trained:
            return passes(self.trained[0].supernet, self.trained[0].sample(), architectures)
        if not self.batches:
            return lambda: None
        supernet = self.space.supernet().eval()
        infer_widths(supernet, self.input_shape)
        return passes(supernet, self.batches[0][0], architectures, gradients=True)


def load_target(settings: RankRunSettings) -> RankTarget:
    """Load the table, checkpoints and images that ``settings`` name.

    Raises:
        NasError: a checkpoint, the images or the table cannot be loaded, they do not belong together, or only the
            table names the factory of a ``custom`` space.
    """
    if settings.proxies:
        check_names(settings.proxies)
    trained = [load_trained(path, settings.rank.progress, settings.factory) for path in settings.checkpoint]
    splits: Splits | None
    if trained:
        first, splits = trained[0], trained[0].splits
        for other in trained[1:]:
            if (other.settings.space, other.space.numbers) != (first.settings.space, first.space.numbers):
                rule = f"is of another space than {first.path}, or has another gate.open"
                raise CheckpointError("checkpoint", other.path, rule, "rank checkpoints of different spaces one by one")
        space, space_settings = first.space, first.settings.space
    else:
        found = settings.space or table_space(settings.truth)
        if found is None:
            rule = f"must be given: the table {settings.truth} does not say it"
            raise SettingError(
                "space", "null", rule, "write for example space=chain, or checkpoint=outputs/train/first"
            )
        space_settings = found
        ok, rule = bool(settings.data) or not settings.proxies, "must be given: proxies look at images"
        require(ok, "data", "null", rule, "write for example data=cifar10")
        splits = load_splits(settings.data, settings.seed, settings.rank.progress) if settings.data else None
        shape = splits.sizes if splits else ()
        space = build_space(space_settings, *shape)
    truth = load_table(settings.truth, space, space_settings)
    if not trained and not space.has_aliases:
        space = space.opened(sorted({len(indices_of(entry)) for a in truth.architectures for entry in a}))
    for one in trained:
        _warn_of_other_data(one, truth)
    input_shape = splits.input_shape if splits else (3, 32, 32)
    how = (2, settings.rank.proxy_images, settings.seed, "proxies", "rank.proxy_images")
    batches = training_batches(splits, *how) if splits and settings.proxies else []
    truth = _sampled(truth, settings)
    if SURROGATE in settings.predictors:
        trainings, n = settings.rank.trainings, len(truth.architectures)
        rule, remedy = f"leaves {max(n - trainings, 0)} of {n} architectures to predict", f"write at most {n - 2}"
        require(trainings <= n - 2, "rank.trainings", trainings, rule, remedy)
    return RankTarget(space, space_settings, truth, trained, input_shape, batches)


def _warn_of_other_data(trained: Trained, truth: BenchmarkTable) -> None:
    """Warn where a table says that its trainings saw other images than a supernet: such a ranking says little of it."""
    data = (truth.settings or {}).get("data")
    made_on = data.get("name") if isinstance(data, dict) else None
    seen = trained.settings.data.name
    if made_on and seen != made_on and {seen, made_on} != {"folder", "cifar10"}:  # an archive of the same images
        rule = f"was trained on data={seen}, and the networks of truth={truth.name} on data={made_on}"
        warnings.warn(f"checkpoint={trained.path}: {rule}; train it on the same images", NasWarning, stacklevel=2)


def _sampled(truth: BenchmarkTable, settings: RankRunSettings) -> BenchmarkTable:
    """The requested number of architectures of the table, in the table's order."""
    total, number = len(truth.architectures), settings.architectures or len(truth.architectures)
    rule = f"the table has only {total}"
    require(number <= total, "architectures", number, rule, "write architectures=0 for all of them")
    require(total >= 2, "truth", settings.truth, f"has {total} architecture: one alone has no order", "give more")
    if number == total:
        return truth
    drawn = torch.randperm(total, generator=generator(settings.seed, "rank"))[:number]
    return truth.subset(drawn.sort().values)
