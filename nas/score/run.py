"""A run of proxies over a space: the architectures, the images, and the files with the results."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas.data import Ordered, Splits, load_splits
from nas.errors import ScoreError, SettingError
from nas.files import write_csv
from nas.journal import Journal
from nas.score.proxies import PROXIES, check_names, rank_sum
from nas.score.scoring import score
from nas.seeds import generator
from nas.settings import ScoreSettings
from nas.settings.plain import filled
from nas.space import Architecture, SearchSpace, build_space, check_supernet, extract, infer_widths
from nas.threads import Threads


@dataclass(frozen=True)
class Row:
    """One scored architecture.

    Attributes:
        architecture: as text.
        values: scores by proxy, means over draws of initial weights.
        seconds: time for all draws together.
    """

    architecture: str
    values: dict[str, float]
    seconds: float


class ScoreRun:
    """A run of ``nas-score``; iterate over it to score.

    Subnetworks are extracted from freshly initialised supernets with the seeds ``seed``, ``seed + 1``, ..., so each
    subnetwork has the same weights as if it were built alone.

    Args:
        settings: settings of the run.
        folder: output folder; a journal in it is continued if its settings are the same.

    Attributes:
        space: the search space.
        wanted: the architectures to score, as text, in order.
        journal: the file that keeps the rows.

    Raises:
        NasError: settings, data, network or journal are invalid; ``folder`` is left unchanged.
    """

    def __init__(self, settings: ScoreSettings, folder: Path) -> None:
        check_names(settings.proxies)
        if isinstance(settings.only, str):
            settings = replace(settings, only=named_in(settings.only))
        self.settings, self.folder = settings, folder
        known = asdict(settings)
        for name in ("run", "progress", "rank_sum", *["open"] * (settings.open == [1])):  # they change no score
            known.pop(name)
        self._rows: dict[str, Row] = {}  # by architecture: two processes may have scored one
        self.journal = Journal(folder / "scores.jsonl", "nas-score", known, self._replay, result=folder / "scores.csv")
        self.threads = Threads(settings.threads, "subnetwork")
        splits = load_splits(settings.data, settings.seed, settings.progress)
        shape = splits.sizes
        self.space = build_space(settings.space, *shape).opened(settings.open, "open")
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
        """The scored architectures, in the order of scoring."""
        return list(self._rows.values())

    def _replay(self, entry: dict[str, Any]) -> None:
        self._rows[entry["architecture"]] = filled(Row, entry)

    def __iter__(self) -> Iterator[Row]:
        """Score what the journal lacks, one row at a time; each row is in the journal before it is yielded.

        Raises:
            ScoreError: a proxy does not apply to a subnetwork; the message names the architecture.
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
        """All rows with their rank sums, the best first; ties in the order of scoring."""
        rows = self.rows
        names = self.settings.rank_sum or self.settings.proxies
        better = {name: PROXIES[name].higher_is_better for name in names}
        sums = rank_sum({name: [row.values[name] for row in rows] for name in names}, better)
        return sorted(zip(rows, sums, strict=True), key=lambda pair: -pair[1])

    def write(self) -> Path:
        """Write ``scores.csv``, the best first, and return its path."""
        path, names = self.folder / "scores.csv", self.settings.proxies
        rows = (
            [row.architecture, *(row.values[name] for name in names), f"{total:g}", f"{row.seconds:.4f}"]
            for row, total in self.ranked()
        )
        write_csv(path, ["architecture", *names, "rank_sum", "seconds"], rows)
        return path


def named_in(file: str) -> list[str]:
    """The architectures in a file, as text: one a line, or the column ``architecture`` of a CSV file with a header.

    Empty lines and those that start with ``#`` are left out.

    Raises:
        SettingError: it cannot be read, or names none.
    """
    remedy = "name a file with one architecture a line, or write only=[1-0-2]"
    try:
        text = Path(file).expanduser().read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise SettingError("only", file, "is not a text file", remedy) from None
    except OSError as error:
        raise SettingError("only", file, f"cannot be read ({error.strerror})", remedy) from None
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if lines and "architecture" in next(csv.reader(lines[:1])):
        lines = [row["architecture"] or "" for row in csv.DictReader(lines)]
    if not lines:
        raise SettingError("only", file, "names no architecture", remedy)
    return lines


def choose(space: SearchSpace, settings: ScoreSettings) -> list[Architecture]:
    """The architectures that ``settings`` ask for, each once.

    Raises:
        ArchitectureError: one of ``only`` does not fit the space.
    """
    if settings.only:
        return list(dict.fromkeys(space.decode(text) for text in settings.only))
    if settings.architectures >= space.size:
        return list(space.enumerate())
    draws = generator(settings.seed, "architectures")
    if 2 * settings.architectures > space.size:  # most draws would repeat earlier ones
        everything = list(space.enumerate())
        return [everything[i] for i in torch.randperm(len(everything), generator=draws)[: settings.architectures]]
    found: dict[Architecture, None] = {}
    while len(found) < settings.architectures:
        found[space.sample(draws)] = None
    return list(found)


def training_batches(
    splits: Splits, number: int, images: int, seed: int, stream: str, key: str
) -> list[tuple[Tensor, Tensor]]:
    """Draw ``number`` batches of ``images`` training images each, normalised but not augmented.

    Args:
        stream: purpose of the draw; other streams draw other images.
        key: the setting behind ``images``, for the error.

    Raises:
        SettingError: there are too few training images.
    """
    available = len(splits.train)
    if number * images > available:
        rule = f"{number} such batches need {number * images} training images; there are {available}"
        raise SettingError(key, images, rule, f"write {key}={available // number} or less")
    order = torch.randperm(available, generator=generator(seed, stream))[: number * images]
    return list(Ordered(splits.train.subset(order), splits.mean, splits.std, images))
