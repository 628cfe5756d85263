"""A run of proxies over a space: which architectures, on which images, and where the results are kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas.data import Splits, load_splits, ordered
from nas.errors import ScoreError, SettingError
from nas.files import write_csv
from nas.journal import Journal
from nas.score.proxies import PROXIES, check_names
from nas.score.rank_sum import rank_sum
from nas.score.scoring import score
from nas.seeds import generator
from nas.settings import ScoreSettings
from nas.settings.plain import filled
from nas.space import Architecture, SearchSpace, build_space, check_supernet, extract, infer_widths

RANK_SUM = "rank_sum"
"""Name of the column."""


@dataclass(frozen=True)
class Row:
    """One scored architecture.

    Attributes:
        architecture: as the space writes it.
        values: by proxy, the mean over draws of initial weights.
        seconds: for all draws together.
    """

    architecture: str
    values: dict[str, float]
    seconds: float


class ScoreRun:
    """Everything that a run of ``nas-score`` consists of.

    Subnetworks are cut out of the supernets of ``seed``, ``seed + 1``, ... as they are initialised, so that each has
    the weights that it would have alone.

    Args:
        settings: of the run.
        folder: where it writes; if it holds a journal of a run with the same settings, that run goes on.

    Attributes:
        space: the search space.
        wanted: the architectures to score, as the space writes them, in order.
        journal: the file that keeps the rows.

    Raises:
        NasError: settings, data, network or journal are not usable; ``folder`` is as it was.
    """

    def __init__(self, settings: ScoreSettings, folder: Path) -> None:
        check_names(settings.proxies)
        self.settings, self.folder = settings, folder
        known = asdict(settings)
        for name in ("run", "progress", "rank_sum"):  # they change no score
            known.pop(name)
        self._rows: dict[str, Row] = {}  # by architecture: two processes may have scored one
        self.journal = Journal(folder / "scores.jsonl", "nas-score", known, self._replay, result=folder / "scores.csv")
        if settings.threads:
            torch.set_num_threads(settings.threads)
        splits = load_splits(settings.data, settings.seed, settings.progress)
        shape = splits.channels, splits.image_size, len(splits.classes)
        self.space = build_space(settings.space, *shape)
        chosen = choose(self.space, settings)
        self.wanted = [self.space.encode(architecture) for architecture in chosen]
        self._supernets = [self.space.supernet(settings.seed + draw) for draw in range(settings.weights)]
        check_supernet(self.space, self._supernets[0], *shape)
        for supernet in self._supernets[1:]:
            infer_widths(supernet, splits.input_shape)
        self._batches = training_batches(
            splits, settings.batches, settings.batch_size, settings.seed, "score", "batch_size"
        )

    @property
    def rows(self) -> list[Row]:
        """Everything that is scored, in the order in which it was."""
        return list(self._rows.values())

    def _replay(self, entry: dict[str, Any]) -> None:
        self._rows[entry["architecture"]] = filled(Row, entry)

    def __iter__(self) -> Iterator[Row]:
        """Score what is not in the journal yet, a row at a time; each is kept before it is handed out.

        Raises:
            ScoreError: a proxy cannot be had of a subnetwork; it names the architecture.
        """
        for text in [text for text in self.wanted if text not in self._rows]:
            row = self._score(text)
            self.journal.append(asdict(row))
            yield row

    def _score(self, text: str) -> Row:
        settings, architecture, draws = self.settings, self.space.decode(text), []
        for draw, supernet in enumerate(self._supernets):
            try:
                subnet = extract(supernet, architecture)
                draws.append(score(subnet, settings.proxies, self._batches, settings.seed + draw))
            except ScoreError as error:
                rule = f"{error.rule} (architecture {text})"
                raise ScoreError(error.key, error.value, rule, error.remedy) from error
        values = {name: sum(one.values[name] for one in draws) / len(draws) for name in settings.proxies}
        return Row(text, values, sum(one.seconds for one in draws))

    def ranked(self) -> list[tuple[Row, float]]:
        """All rows and their rank sums, the best first; equal ones in the order in which they were scored."""
        rows = self.rows
        names = self.settings.rank_sum or self.settings.proxies
        better = {name: PROXIES[name].higher_is_better for name in names}
        sums = rank_sum({name: [row.values[name] for row in rows] for name in names}, better)
        return sorted(zip(rows, sums, strict=True), key=lambda pair: -pair[1])

    def write(self) -> Path:
        """Write ``scores.csv``, the best first: whole, or not at all."""
        path, names = self.folder / "scores.csv", self.settings.proxies
        rows = (
            [row.architecture, *(row.values[name] for name in names), f"{total:g}", f"{row.seconds:.4f}"]
            for row, total in self.ranked()
        )
        write_csv(path, ["architecture", *names, RANK_SUM, "seconds"], rows)
        return path


def choose(space: SearchSpace, settings: ScoreSettings) -> list[Architecture]:
    """The architectures that ``settings`` ask for, none twice.

    Raises:
        ArchitectureError: one of ``only`` does not fit the space.
    """
    if settings.only:
        return list(dict.fromkeys(space.decode(text) for text in settings.only))
    if settings.architectures >= space.size:
        return list(space.enumerate())
    draws = generator(settings.seed, "architectures")
    if 2 * settings.architectures > space.size:  # most draws would be known
        everything = list(space.enumerate())
        return [everything[i] for i in torch.randperm(len(everything), generator=draws)[: settings.architectures]]
    found: dict[Architecture, None] = {}
    while len(found) < settings.architectures:
        found[space.sample(draws)] = None
    return list(found)


def training_batches(
    splits: Splits, number: int, images: int, seed: int, stream: str, key: str
) -> list[tuple[Tensor, Tensor]]:
    """``number`` batches of ``images`` training images each, normalised but not augmented, drawn by a seed.

    Args:
        stream: what the draw is for; other streams draw other images.
        key: the setting that ``images`` comes from, for the error.

    Raises:
        SettingError: there are too few training images.
    """
    available = len(splits.train)
    if number * images > available:
        rule = f"{number} such batches need {number * images} training images; there are {available}"
        raise SettingError(key, images, rule, f"write {key}={available // number} or less")
    order = torch.randperm(available, generator=generator(seed, stream))[: number * images]
    return list(ordered(splits.train.subset(order), splits.mean, splits.std, images))
