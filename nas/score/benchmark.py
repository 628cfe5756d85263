"""Tables of truth: architectures that were trained from scratch, each several times, and how good they became."""

from __future__ import annotations

import csv
import json
import math
import reprlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas.errors import ArchitectureError, DataError, SettingError
from nas.settings import CustomSettings, SpaceSettings, train_settings
from nas.space import Architecture, SearchSpace

OWN = "own"
TABLE = Path(__file__).parent / "tables" / "chain.csv"
"""The table that comes with the package: 256 chains on CIFAR-10, made by scripts/make_table.py."""


@dataclass(frozen=True, eq=False)
class BenchmarkTable:
    """What each architecture is worth."""

    name: str
    """The source, as it was given."""
    architectures: list[Architecture]
    accuracies: Tensor
    """``(n, seeds)``, float64, 0 to 1: one column a training."""
    settings: dict[str, Any] | None
    """What the table was made with, as settings of nas-train; None where it does not say."""
    percent: bool
    """Whether the source has percent."""

    @property
    def mean(self) -> Tensor:
        """Mean accuracy over the trainings, ``(n,)``."""
        return self.accuracies.mean(dim=1)

    def subset(self, indices: Tensor) -> BenchmarkTable:
        """The rows ``indices``, in their order."""
        chosen = [self.architectures[i] for i in indices.tolist()]
        return replace(self, architectures=chosen, accuracies=self.accuracies[indices])


Row = tuple[str, str, list[float]]
"""Where it stands, the architecture as text, its accuracies as the source has them."""


def load_table(source: str, space: SearchSpace, settings: SpaceSettings | None = None) -> BenchmarkTable:
    """Read a table of truth.

    Args:
        source: ``own``, the table that comes with the package; a ``.json`` file in the form of NAS-Bench-Macro,
            ``{"02012100": {"test_acc": [89.5, 88.9, 89.2], ...}, ...}``; or a CSV file: lines of comment that begin
            with ``#``, of which ``# settings: {...}`` is read, the header ``architecture,accuracy[,...]``, and a row
            an architecture. Accuracies are all in [0, 1], or all in percent above 1: a table that has both is
            refused, since it cannot be told which is meant.
        space: that the architectures must fit.
        settings: of the space; compared with those in the head of a table that has them.

    Raises:
        DataError: there is no such table, it is malformed, it does not fit the space, an architecture occurs twice,
            or an accuracy is not a number between 0 and 100.
    """
    path = table_path(source)
    if path.suffix == ".json":
        found, rows = None, _json_rows(source, _text(source))
    else:
        found, lines, skipped = _head(source)
        rows = _csv_rows(source, lines, skipped)
    if not rows:
        raise DataError("truth", source, "has no architectures", "give a table with a row an architecture")
    made_with = _space(source, found)
    if made_with is not None and settings is not None:
        _compare(source, asdict(made_with), asdict(settings))
    accuracies, percent = _accuracies(source, rows)
    return BenchmarkTable(source, _architectures(source, rows, space), accuracies, found, percent)


def table_path(source: str) -> Path:
    """The file behind a source."""
    return TABLE if source == OWN else Path(source).expanduser()


def table_space(source: str) -> SpaceSettings | None:
    """The space in the head of a CSV table; what is absent there has its default. None where there is none.

    Raises:
        DataError: there is no such table, its head cannot be read, or it names a ``custom`` space: to build that one is
            to run the code that a file names, so that the user has to name it.
    """
    space = None if table_path(source).suffix == ".json" else _space(source, _head(source)[0])
    if isinstance(space, CustomSettings):
        rule = f"names the factory {space.factory} in its head, and what a table names is not called"
        remedy = "write space=custom space.factory=package.module:callable if you trust it"
        raise DataError("truth", source, rule, remedy)
    return space


def _space(source: str, head: dict[str, Any] | None) -> SpaceSettings | None:
    if head is None or "space" not in head:
        return None
    try:
        return train_settings({"space": head["space"]}).space
    except SettingError as error:
        rule = f"has {error.key}={error.value} in its head, which {error.rule}"
        raise DataError("truth", source, rule, error.remedy) from None


def _text(source: str) -> str:
    path = table_path(source)
    if not path.is_file():
        remedy = f"write truth={OWN} for the table of this package, or name a CSV or JSON file"
        raise DataError("truth", source, f"there is no file {path}", remedy)
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DataError("truth", source, "is not a text file", "name a CSV or JSON file") from None


# ------------------------------------------------------------------------------------------------ the two formats


def _head(source: str) -> tuple[dict[str, Any] | None, list[str], int]:
    """The settings in a CSV table's comments, its other lines, and how many comments there are."""
    lines, settings, skipped = _text(source).splitlines(), None, 0
    while skipped < len(lines) and lines[skipped].startswith("#"):
        name, _, value = lines[skipped][1:].strip().partition(":")
        skipped += 1
        if name == "settings":
            try:
                settings = json.loads(value)
            except (ValueError, RecursionError):
                settings = None
            if not isinstance(settings, dict) or not isinstance(settings.get("space", {}), dict):
                raise DataError("truth", f"{source}:{skipped}", "its settings are no JSON object", "mend the line")
    return settings, lines[skipped:], skipped


def _csv_rows(source: str, lines: list[str], skipped: int) -> list[Row]:
    columns, rows = 0, []
    for number, cells in _cells(source, lines, skipped):
        where = f"{source}:{number}"
        if not cells:
            continue  # an empty line
        cells = [cell.strip() for cell in cells]
        if not columns:
            columns = len(cells)
            ok = cells[0] == "architecture" and columns > 1
            _require(ok, where, "the first row must be the header: architecture,accuracy[,accuracy...]", "write it")
            continue
        rule = f"has {len(cells)} cells, the header has {columns}"
        _require(len(cells) == columns, where, rule, "give each training of each architecture its accuracy")
        rows.append((where, cells[0], [_number(where, cell) for cell in cells[1:]]))
    return rows


def _cells(source: str, lines: list[str], skipped: int) -> Iterator[tuple[int, list[str]]]:
    """The cells of each row behind the number of the line that it ends in."""
    reader = csv.reader(lines)
    try:
        for cells in reader:
            yield skipped + reader.line_num, cells
    except csv.Error as error:
        where = f"{source}:{skipped + reader.line_num}"
        raise DataError(
            "truth", where, f"is not CSV ({error})", "look for a quotation mark that is not closed"
        ) from None


def _json_rows(source: str, text: str) -> list[Row]:
    form = 'must read {"02012100": {"test_acc": [89.5, 88.9, 89.2]}, ...}'
    try:
        # Pairs, because a dict would drop all but the last of equal keys.
        entries = json.loads(text, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as error:
        raise DataError("truth", source, f"is not JSON ({error})", "download it again") from None
    remedy = "give each architecture a list of accuracies, all of the same length"
    _require(isinstance(entries, _Pairs), source, form, remedy)
    rows: list[Row] = []
    for name, entry in entries:
        where = f"{source}:{name}"
        values = dict(entry).get("test_acc") if isinstance(entry, _Pairs) else None
        ok = isinstance(values, list) and len(values) == len(rows[0][2] if rows else values) > 0
        _require(ok, where, form, remedy)
        rows.append((where, name, [_number(where, value) for value in values or []]))
    return rows


class _Pairs(list):
    """A JSON object as its pairs, equal keys and all."""


def _number(where: str, value: object) -> float:
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    rule = f"{reprlib.repr(value)} is no accuracy: a number from 0 to 1, or to 100 in percent"
    _require(0 <= number <= 100, where, rule, "mend it, or leave the row out")
    return number


# --------------------------------------------------------------------------------------------------- what must hold


def _accuracies(source: str, rows: list[Row]) -> tuple[Tensor, bool]:
    values = torch.tensor([row[2] for row in rows], dtype=torch.float64)
    percent, fraction = values > 1, values <= 1
    if bool(percent.any() and fraction.any()):
        where = [rows[int(kind.any(dim=1).nonzero()[0])][0].rpartition(":")[2] for kind in (percent, fraction)]
        rule = f"has accuracies above 1 (first at {where[0]}) and others not above 1 (first at {where[1]})"
        raise DataError("truth", source, rule, "write all of them from 0 to 1, or all in percent")
    in_percent = bool(percent.all())
    return values / 100 if in_percent else values, in_percent


def _architectures(source: str, rows: list[Row], space: SearchSpace) -> list[Architecture]:
    found: dict[Architecture, str] = {}
    misfits, first = 0, ""
    for where, text, _ in rows:
        try:
            architecture = space.decode(text)
        except ArchitectureError as error:
            misfits += 1
            first = first or f"{text} at {where.rpartition(':')[2]}: {error.rule}"
            continue
        rule = f"architecture {text} occurs twice, first at {found.get(architecture, '').rpartition(':')[2]}"
        _require(architecture not in found, where, rule, "keep one row, with all its accuracies")
        found[architecture] = where
    if misfits:
        rule = f"{misfits} of {len(rows)} architectures do not fit space {space.name}, first {first}"
        raise DataError("truth", source, rule, "take the table of this space, or the space of this table")
    return list(found)


def _compare(source: str, table: dict[str, Any], ours: dict[str, Any]) -> None:
    """Refuse a table of another space; the first settings that differ are named."""
    names = ["name"] if table["name"] != ours["name"] else list(ours)
    differ = [f"space.{n}={table[n]} and not {ours[n]}" for n in names if table[n] != ours[n]]
    if differ:
        rule = f"was made with {', '.join(differ[:3])}"
        raise DataError("truth", source, rule, "take the table of this space, or the space of this table")


def _require(ok: bool, where: str, rule: str, remedy: str) -> None:
    if not ok:
        raise DataError("truth", where, rule, remedy)
