"""Runs as a table: what they differ in, which of them, in which order, as text and as CSV."""

from __future__ import annotations

import json
from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from itertools import groupby
from pathlib import Path
from typing import Any

from nas.console import ResultTable
from nas.errors import SettingError
from nas.files import write_csv
from nas.runs.found import FoundRun, printable

FIGURES = ("best", "mean", "test", "images_per_s")
COLUMNS = ("run", "kind", "state", "found", *FIGURES)


def compared(runs: Sequence[FoundRun]) -> dict[str, list[str]]:
    """What the runs of each kind differ in: the keys of settings of which two have different values.

    A key that only some have, as those of one gate, counts where these differ.
    """
    keys = {}
    for kind, group in groupby(sorted(runs, key=lambda run: run.kind), key=lambda run: run.kind):
        same_kind = list(group)
        known = dict.fromkeys(key for run in same_kind for key in run.settings)
        keys[kind] = [
            key for key in known if len({_shown(run.settings[key]) for run in same_kind if key in run.settings}) > 1
        ]
    return keys


def in_words(run: FoundRun, keys: Sequence[str]) -> str:
    """What a run differs in, as in ``gate=fair optimizer.lr=0.1``."""
    return " ".join(f"{_short(key)}={_shown(run.settings[key])}" for key in keys if key in run.settings)


def picked(runs: Sequence[FoundRun], where: Sequence[str]) -> list[FoundRun]:
    """Those for which each ``KEY=VALUE`` holds: of a setting, or of a column but the figures; ``*`` is any text.

    Raises:
        SettingError: that is not of this form, or no run has the key.
    """
    for condition in where:
        key, equals, value = condition.partition("=")
        if not equals:
            raise SettingError("--where", condition, "must read KEY=VALUE", "write for example --where gate=fair")
        _must_be_known("--where", key, runs)
        runs = [
            run for run in runs if fnmatchcase(_shown(_value(run, key)), value) or _shown(_value(run, key)) == value
        ]
    return list(runs)


def first_rows(runs: Sequence[FoundRun], sort: str) -> list[FoundRun]:
    """The runs in another order: the largest figure first, any other column and any setting from small to large.

    Args:
        runs: in any order.
        sort: a column or a setting; behind a ``-`` the other way round. Runs that lack it are last.

    Raises:
        SettingError: no run has it.
    """
    key, turned = sort.removeprefix("-"), sort.startswith("-")
    _must_be_known("--sort", key, runs)
    have = [run for run in runs if _value(run, key) is not None]
    numbers = all(type(_value(run, key)) in (int, float) for run in have)
    have.sort(
        key=lambda run: _value(run, key) if numbers else _shown(_value(run, key)), reverse=(key in FIGURES) != turned
    )
    return [*have, *(run for run in runs if _value(run, key) is None)]


def make_table(runs: Sequence[FoundRun], differ: dict[str, list[str]]) -> ResultTable:
    """The table for a terminal; its caption says what the columns are."""
    kinds = len({run.kind for run in runs}) > 1
    names = ["run", *(["kind"] if kinds else []), "differs in" if not kinds else "differs in, found", "state"]
    table = ResultTable("Runs", names, ["best val", "mean val", "test", "images/s"])
    for run in runs:
        words = "; ".join(filter(None, (in_words(run, differ[run.kind]), run.found)))
        accuracies = ("-" if value is None else f"{value:.1%}" for value in (run.best, run.mean, run.test))
        speed = "-" if run.images_per_s is None else f"{run.images_per_s:,.0f}"
        table.add_row(run.run, *([run.kind] if kinds else []), words, run.state, *accuracies, speed)
    table.caption = "val: best and mean of the subnetworks that were evaluated last; test: of the best one"
    return table


def write_table(path: Path, runs: Sequence[FoundRun], differ: dict[str, list[str]]) -> None:
    """The same as CSV, with a column for each setting that some differ in, and the reasons of failures."""
    keys = list(dict.fromkeys(key for kind in differ.values() for key in kind))
    rows = []
    for run in runs:
        cells = [getattr(run, name) for name in COLUMNS]
        settings = [_shown(run.settings[key]) if key in run.settings else "" for key in keys]
        rows.append([*("" if cell is None else cell for cell in cells), run.why, *settings])
    write_csv(path, [*COLUMNS, "why", *map(_short, keys)], rows)


def _value(run: FoundRun, key: str) -> Any:
    if key in COLUMNS:
        return getattr(run, key)
    return run.settings.get(key, run.settings.get(f"{key}.name"))


def _must_be_known(flag: str, key: str, runs: Sequence[FoundRun]) -> None:
    known = list(dict.fromkeys([*COLUMNS, *(_short(key) for run in runs for key in run.settings)]))
    if key not in known and not any(key in run.settings for run in runs):
        near = get_close_matches(key, known, 3) or [name for name in known if name.endswith(f".{key}")] or COLUMNS
        raise SettingError(
            flag, key, "is no column and no setting of these runs", f"write for example {', '.join(near)}"
        )


def _short(key: str) -> str:
    """A choice of a group is written as on the command line: ``gate``, not ``gate.name``."""
    return printable(key.removesuffix(".name"))


def _shown(value: object) -> str:
    return printable(value if isinstance(value, str) else json.dumps(value, separators=(",", ":")))
