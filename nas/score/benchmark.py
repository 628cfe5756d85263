"""Benchmark tables: architectures that were trained from scratch, each several times, with their accuracies."""

from __future__ import annotations

import csv
import json
import math
import reprlib
from dataclasses import asdict, dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas.errors import ArchitectureError, DataError, SettingError
from nas.settings import SpaceSettings, train_settings
from nas.space import Architecture, SearchSpace

OWN = "own"
TABLE = Path(__file__).parent / "tables" / "chain.csv"
"""The table that comes with the package: 256 chains on CIFAR-10, made by scripts/make_table.py."""

Head = dict[str, Any] | None
"""The settings that a table was made with; None where it does not state them."""
Row = tuple[str, str, list[float | None]]
"""Where the row stands in its file, the architecture as text, and its accuracies as written; None for an empty cell."""


@dataclass(frozen=True, eq=False)
class BenchmarkTable:
    """Architectures and the accuracies that they reach when trained from scratch."""

    name: str
    """The source, as the user named it."""
    architectures: list[Architecture]
    accuracies: Tensor
    """``(n, seeds)``, float64, 0 to 1: one column for each seed; 0 where an architecture was not trained with it."""
    settings: Head
    """The settings of nas-train that the table was made with; None where it does not state them."""
    missing: Tensor | None = None
    """``(n, seeds)``, bool: the trainings that there are not; None where all are there."""

    @property
    def trained(self) -> Tensor:
        """The trainings that there are: ``(n, seeds)``, bool, at least one in each row."""
        return torch.ones_like(self.accuracies, dtype=torch.bool) if self.missing is None else ~self.missing

    @property
    def trainings(self) -> Tensor:
        """The number of trainings of each architecture, ``(n,)``."""
        return self.trained.sum(dim=1)

    @property
    def mean(self) -> Tensor:
        """Mean accuracy over the trainings that there are, ``(n,)``."""
        return self.accuracies.sum(dim=1) / self.trainings

    def subset(self, indices: Tensor) -> BenchmarkTable:
        """The rows ``indices``, in their order."""
        chosen = [self.architectures[i] for i in indices.tolist()]
        missing = None if self.missing is None else self.missing[indices]
        return replace(self, architectures=chosen, accuracies=self.accuracies[indices], missing=missing)


def load_table(source: str, space: SearchSpace, settings: SpaceSettings | None = None) -> BenchmarkTable:
    """Read a benchmark table.

    Args:
        source: ``own``, the table that comes with the package; a ``.json`` file in the format of NAS-Bench-Macro,
            ``{"02012100": {"test_acc": [89.5, 88.9, 89.2], ...}, ...}``; or a CSV file: comment lines that start with
            ``#``, of which ``# settings: {...}`` is read, the header ``architecture,accuracy[,...]``, and one row for
            each architecture. Rows may have different numbers of trainings: cells may be empty, and lists shorter than
            others. Accuracies are all in [0, 1], or all in percent and above 1; a table with both is refused as
            ambiguous.
        space: the space that the architectures must fit.
        settings: the settings of the space; compared with those in the table's head, if it has any.

    Raises:
        DataError: the file is missing or malformed, or does not fit the space, an architecture occurs twice, or an
            accuracy is not a number between 0 and 100.
    """
    head, rows = _read(source)
    _require(bool(rows), source, "has no architectures", "give a table with a row for each architecture")
    made_with = _space(source, head)
    if made_with is not None and settings is not None:
        _compare(source, asdict(made_with), asdict(settings))
    accuracies, missing = _accuracies(source, rows)
    return BenchmarkTable(source, _architectures(source, rows, space), accuracies, head, missing)


def table_path(source: str) -> Path:
    """The file behind a source."""
    return TABLE if source == OWN else Path(source).expanduser()


def table_space(source: str) -> SpaceSettings | None:
    """The space in the head of a CSV table, with defaults for absent settings; None where the head names none.

    Raises:
        DataError: the table cannot be read, or it names a ``custom`` space: building that one runs the code that the
            file names, so the user must name it too.
    """
    space = _space(source, _read(source)[0])
    if space is not None and (called := space.unnamed("")):
        rule = f"names the factory {called} in its head, and what a table names is not called"
        key = "space.model" if space.name == "model" else "space.factory"
        remedy = f"write space={space.name} {key}=package.module:callable if you trust it"
        raise DataError("truth", source, rule, remedy)
    return space


def _space(source: str, head: Head) -> SpaceSettings | None:
    if head is None or "space" not in head:
        return None
    try:
        return train_settings({"space": head["space"]}).space
    except SettingError as error:
        rule = f"has {error.key}={error.value} in its head, which {error.rule}"
        raise DataError("truth", source, rule, error.remedy) from None


# ------------------------------------------------------------------------------------------------ the two formats


def _read(source: str) -> tuple[Head, list[Row]]:
    path = table_path(source)
    remedy = f"write truth={OWN} for the table of this package, or name a CSV or JSON file"
    _require(path.is_file(), source, f"there is no file {path}", remedy)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DataError("truth", source, "is not a text file", "name a CSV or JSON file") from None
    return (None, _read_json(source, text)) if path.suffix == ".json" else _read_csv(source, text)


def _read_csv(source: str, text: str) -> tuple[Head, list[Row]]:
    lines, head = text.splitlines(), None
    comments = list(takewhile(lambda line: line.startswith("#"), lines))
    for number, line in enumerate(comments, 1):
        name, _, value = line[1:].strip().partition(":")
        if name == "settings":
            head = _settings(f"{source}:{number}", value)
    reader = csv.reader(lines[len(comments) :])
    try:
        table = [(len(comments) + reader.line_num, [cell.strip() for cell in cells]) for cells in reader if cells]
    except csv.Error as error:
        where, remedy = f"{source}:{len(comments) + reader.line_num}", "look for a quotation mark that is not closed"
        raise DataError("truth", where, f"is not CSV ({error})", remedy) from None
    rows: list[Row] = []
    for number, cells in table:
        where, header = f"{source}:{number}", table[0][1]
        if cells is header:
            rule = "the first row must be the header: architecture,accuracy[,accuracy...]"
            _require(cells[0] == "architecture" and len(cells) > 1, where, rule, "write it")
            continue
        rule = f"has {len(cells)} cells, the header has {len(header)}"
        _require(len(cells) <= len(header), where, rule, "name a column for each training in the header")
        _require(any(cells[1:]), where, "has no accuracy", "give the architecture one, or leave the row out")
        rows.append((where, cells[0], [_number(where, cell) if cell else None for cell in cells[1:]]))
    return head, rows


def _settings(where: str, text: str) -> dict[str, Any]:
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError):
        settings = None
    ok = isinstance(settings, dict) and isinstance(settings.get("space", {}), dict)
    _require(ok, where, "its settings are not a JSON object", "correct the line")
    return dict(settings)


def _read_json(source: str, text: str) -> list[Row]:
    try:
        # As pairs, because a dict would drop all but the last of equal keys.
        entries = json.loads(text, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as error:
        raise DataError("truth", source, f"is not JSON ({error})", "download it again") from None
    form = 'must read {"02012100": {"test_acc": [89.5, 88.9, 89.2]}, ...}'
    remedy = "give each architecture a list of accuracies"
    _require(isinstance(entries, _Pairs), source, form, remedy)
    rows: list[Row] = []
    for name, entry in entries:
        where = f"{source}:{name}"
        values = dict(entry).get("test_acc") if isinstance(entry, _Pairs) else None
        _require(isinstance(values, list) and len(values) > 0, where, form, remedy)
        rows.append((where, name, [_number(where, value) for value in values or []]))
    return rows


class _Pairs(list):
    """A JSON object as its pairs, including equal keys."""


def _number(where: str, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    rule = f"{reprlib.repr(value)} is not an accuracy: a number from 0 to 1, or to 100 in percent"
    _require(0 <= number <= 100, where, rule, "correct it, or leave the row out")
    return number


# ------------------------------------------------------------------------------------------------- common to both


def _accuracies(source: str, rows: list[Row]) -> tuple[Tensor, Tensor | None]:
    """The accuracies, 0 to 1 and 0 where there is none, and which are missing; None where none is."""
    seeds = max(len(values) for _, _, values in rows)
    filled = [[*values, *[None] * (seeds - len(values))] for _, _, values in rows]
    missing = torch.tensor([[value is None for value in values] for values in filled])
    values = torch.tensor([[value or 0.0 for value in values] for values in filled], dtype=torch.float64)
    above, below = (values > 1).any(dim=1), ((values <= 1) & ~missing).any(dim=1)
    if bool(above.any() and below.any()):
        first = [rows[int(kind.nonzero()[0])][0].rpartition(":")[2] for kind in (above, below)]
        rule = f"has accuracies above 1 (first at {first[0]}) and others not above 1 (first at {first[1]})"
        raise DataError("truth", source, rule, "write all of them from 0 to 1, or all in percent")
    return values / 100 if above.any() else values, missing if missing.any() else None


def _architectures(source: str, rows: list[Row], space: SearchSpace) -> list[Architecture]:
    found: dict[Architecture, str] = {}
    misfits: list[str] = []
    for where, text, _ in rows:
        line = where.rpartition(":")[2]
        try:
            architecture = space.decode(text)
        except ArchitectureError as error:
            misfits.append(f"{text} at {line}: {error.rule}")
            continue
        rule = f"architecture {text} occurs twice, first at {found.get(architecture)}"
        _require(architecture not in found, where, rule, "keep one row, with all its accuracies")
        found[architecture] = line
    if misfits:
        rule = f"{len(misfits)} of {len(rows)} architectures do not fit space {space.name}, first {misfits[0]}"
        raise DataError("truth", source, rule, "take the table of this space, or the space of this table")
    return list(found)


def _compare(source: str, table: dict[str, Any], ours: dict[str, Any]) -> None:
    """Refuse a table of another space; the message names the first settings that differ."""
    names = ["name"] if table["name"] != ours["name"] else list(ours)
    differ = [f"space.{n}={table[n]} and not {ours[n]}" for n in names if table[n] != ours[n]]
    remedy = "take the table of this space, or the space of this table"
    _require(not differ, source, f"was made with {', '.join(differ[:3])}", remedy)


def _require(ok: bool, where: str, rule: str, remedy: str) -> None:
    if not ok:
        raise DataError("truth", where, rule, remedy)
