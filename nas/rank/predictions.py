"""Predictions of how good architectures are: by a supernet, by training-free proxies, by size alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas.checkpoint import versions
from nas.console import track
from nas.cost import PathFlops, PathParameters
from nas.data import Batch
from nas.journal import Journal
from nas.rank.learned import learned
from nas.rank.prediction import KINDS, Prediction, add_ranks
from nas.rank.target import RankTarget
from nas.score import PROXIES, score
from nas.search import Evaluator, Finetune
from nas.search.propose.surrogate import Column, Surrogate
from nas.settings import RankRunSettings
from nas.settings.rank import FEATURES, SURROGATE, TRIVIAL
from nas.space import Architecture, extract, infer_widths

CHOICES, PAIRS, COST, SUPERNET = FEATURES
LOSS = "loss"
_SAME = {"versions": versions()}
"""A part of every key: every value depends on it."""


class KnownValues:
    """The values that earlier runs in the same folder computed, in memory and in a journal.

    A value's key names everything that it depends on (checkpoint, split, seed, ...), so that stale values are never
    found and a run can be repeated with more predictors.

    Args:
        folder: folder of the run; the first value creates its journal.

    Raises:
        CheckpointError: its journal is damaged, was emptied, or belongs to another command.
    """

    def __init__(self, folder: Path) -> None:
        self._values: dict[tuple[str, str], dict[str, float]] = {}
        self._journal = Journal(folder / "journal.jsonl", "nas-rank", {}, self._replay, result=folder / "rank.csv")

    def find(self, key: str, architecture: str) -> dict[str, float]:
        """The known values of an architecture by name; empty if there are none."""
        return self._values.get((key, architecture), {})

    def add(self, key: str, architecture: str, values: Mapping[str, float]) -> None:
        """Add values and write them to the journal."""
        self._journal.append({"key": key, "architecture": architecture, "values": dict(values)})

    def _replay(self, entry: dict[str, Any]) -> None:
        self._values.setdefault((entry["key"], entry["architecture"]), {}).update(entry["values"])


def key_of(kind: str, **depends_on: Any) -> str:
    """A short key: a readable name, and a digest of the plain data that the values depend on."""
    text = json.dumps(depends_on, sort_keys=True)
    return f"{kind}-{blake2b(text.encode(), digest_size=6).hexdigest()}"


def predict(target: RankTarget, settings: RankRunSettings, known: KnownValues) -> list[Prediction]:
    """All predictions that ``settings`` ask for, in the order of ``KINDS``.

    Values in ``known`` are used again; all others are computed and added to it.
    """
    seen = [LOSS] if SUPERNET in settings.features else []
    found = _of_supernets(target, [*dict.fromkeys([*settings.asked, *seen])], settings, known)
    found += _of_proxies(target, settings, known)
    found += _trivial(target)
    by_name = {prediction.name: prediction for prediction in found}
    if settings.summed:
        found.append(add_ranks([by_name[name] for name in settings.summed]))
    if SURROGATE in settings.predictors:
        found.append(_of_surrogate(target, settings, by_name))
    found = [prediction for prediction in found if prediction.kind != "supernet" or prediction.name in settings.asked]
    return sorted(found, key=lambda prediction: KINDS.index(prediction.kind))


# -------------------------------------------------------------------------------------------------- of a supernet


def _of_supernets(
    target: RankTarget, names: Sequence[str], settings: RankRunSettings, known: KnownValues
) -> list[Prediction]:
    """The predictors' values in each checkpoint; one evaluation gives both loss and accuracy."""
    found = []
    for name in names:
        metric, _, how = name.partition("_")
        draws = [_evaluated(target, number, how, settings, known) for number in range(len(target.trained))]
        values = _float64([[result[metric] for result in draw] for draw in draws])
        found.append(Prediction(name, "supernet", values, metric == "loss"))
    return found


def _evaluated(
    target: RankTarget, number: int, how: str, settings: RankRunSettings, known: KnownValues
) -> list[dict[str, float]]:
    """Accuracy and loss of each architecture in one of the supernets, in the table's order."""
    trained, total = target.trained[number], len(target.trained)
    label = f"supernet {how or 'recalibrated'}" + (f" {number + 1}/{total}" if total > 1 else "")
    tuned = (settings.rank.finetune_steps, settings.rank.finetune_lr) if how == "tuned" else None
    kind = f"supernet_{how or 'recalibrated'}"
    images = settings.rank.images, settings.rank.recalibrate_images
    key = key_of(kind, checkpoint=trained.digest, split=settings.split, finetune=tuned, images=images, **_SAME)
    encode, architectures = target.space.encode, target.truth.architectures
    todo = [a for a in architectures if not known.find(key, encode(a))]
    if todo:
        evaluator = Evaluator.of(
            trained,
            split=settings.split,
            memory_bytes=settings.rank.memory_mb << 20,
            recalibrate=how != "running",
            finetune=Finetune.of(trained, *tuned) if tuned else None,
            images=settings.rank.images,
            recalibrate_images=settings.rank.recalibrate_images,
        )
        for result in track(evaluator(todo), label, len(todo), settings.rank.progress):
            known.add(key, encode(result.architecture), {"accuracy": result.accuracy, "loss": result.loss})
    return [known.find(key, encode(a)) for a in architectures]


# -------------------------------------------------------------------------------------------------- without training


def _of_proxies(target: RankTarget, settings: RankRunSettings, known: KnownValues) -> list[Prediction]:
    """Each proxy on each draw of initial weights; proxies share passes."""
    names = [name for name in settings.proxies if name not in TRIVIAL]
    if not names:
        return []
    batches = target.batches
    encode, architectures = target.space.encode, target.truth.architectures
    values: dict[str, list[list[float]]] = {name: [] for name in names}
    for draw in range(settings.weights):
        seed = settings.seed + draw
        key = key_of("proxies", seed=seed, batches=_digest(batches), space=asdict(target.space_settings), **_SAME)
        missing = {a: [name for name in names if name not in known.find(key, encode(a))] for a in architectures}
        todo = [a for a in architectures if missing[a]]
        if todo:
            supernet = target.space.supernet(seed)
            infer_widths(supernet, target.input_shape)
            label = "proxies" if settings.weights == 1 else f"proxies, weights {draw + 1}/{settings.weights}"
            for a in track(todo, label, len(todo), settings.rank.progress):
                known.add(key, encode(a), score(extract(supernet, a), missing[a], batches, seed).values)
        for name in names:
            values[name].append([known.find(key, encode(a))[name] for a in architectures])
    worse_upwards = {name: not PROXIES[name].higher_is_better for name in names}
    return [Prediction(name, "proxy", _float64(values[name]), worse_upwards[name]) for name in names]


def _digest(batches: Sequence[Batch]) -> str:
    parts = (tensor.contiguous().numpy().tobytes() for batch in batches for tensor in batch)
    return blake2b(b"".join(parts)).hexdigest()


def _trivial(target: RankTarget) -> list[Prediction]:
    supernet = target.trained[0].supernet if target.trained else target.space.supernet()
    infer_widths(supernet, target.input_shape)
    parameters = PathParameters(target.space, supernet)
    flops = PathFlops(target.space, supernet, target.input_shape)
    return [
        Prediction(name, "trivial", _float64([[cost(a) for a in target.truth.architectures]]))
        for name, cost in (("parameters", parameters), ("flops", flops))
    ]


def _float64(of_draws: Sequence[Sequence[float]]) -> Tensor:
    return torch.tensor(of_draws, dtype=torch.float64)


# ----------------------------------------------------------------------------------------------- learned from trainings


def _of_surrogate(target: RankTarget, settings: RankRunSettings, known: Mapping[str, Prediction]) -> Prediction:
    """The regression of ``nas-search`` on the features that the settings name."""
    features, architectures = settings.features, target.truth.architectures
    members = {COST: TRIVIAL, SUPERNET: (LOSS,), **{name: (name,) for name in settings.proxies}}
    columns = {
        name: [_column(architectures, draw) for member in members[name] for draw in known[member].values]
        for name in features
        if name in members
    }
    surrogate = Surrogate(
        target.space,
        columns,
        choices=CHOICES in features,
        pairs=PAIRS in features,
        reference=architectures,
    )
    return learned(surrogate, target.truth, settings.rank.trainings, settings.seed)


def _column(architectures: Sequence[Architecture], values: Tensor) -> Column:
    by_architecture = dict(zip(architectures, values.tolist(), strict=True))
    return lambda asked: [by_architecture[a] for a in asked]
