"""What a run of proxies shows in a terminal: a progress bar, and a table of the best."""

from __future__ import annotations

from rich.console import Console

from nas.console import ProgressBar, ResultTable
from nas.score.run import Row, ScoreRun
from nas.signals import Interrupted, stop_signals

SHOWN = 20
"""Maximal number of rows in the table; the file has all."""


def carry_out(run: ScoreRun, out: Console) -> None:
    """Score the remaining architectures, with a progress bar.

    Raises:
        Interrupted: SIGINT or SIGTERM arrived; the journal has the results so far.
        ScoreError: a proxy does not apply to a subnetwork.
    """
    bar = ProgressBar("scoring", len(run.wanted), len(run.rows), run.settings.progress, out)
    with stop_signals() as received, bar, run.threads:
        new = 0.0
        for number, row in enumerate(run, 1):
            new += row.seconds
            if (line := run.threads.note(row.seconds)) and run.settings.progress:
                out.print(line)
            bar.update(len(run.rows), f"{1000 * new / number:,.0f} ms each")
            if received and len(run.rows) < len(run.wanted):
                raise Interrupted(received[0])


def table(run: ScoreRun) -> ResultTable:
    """The best architectures by the sum of their ranks, or by the only proxy."""
    ranked, names = run.ranked(), run.settings.proxies
    summed = run.settings.rank_sum or names
    by = f"the rank sum of {', '.join(summed)}" if len(summed) > 1 else summed[0]
    sums = ["rank sum"] if len(summed) > 1 else []
    shown = ResultTable(f"Best by {by}", ["architecture"], [*names, *sums, "ms"], numbered=True)
    for row, total in ranked[:SHOWN]:
        values = [number(row, name) for name in names] + ([f"{total:g}"] if sums else [])
        shown.add_row(row.architecture, *values, f"{1000 * row.seconds:,.0f}")
    if len(ranked) > SHOWN:
        shown.caption = f"and {len(ranked) - SHOWN:,} more in scores.csv"
    return shown


def number(row: Row, name: str) -> str:
    """Format a value: whole numbers without decimals, others with five digits."""
    value = row.values[name]
    return f"{value:,.0f}" if value.is_integer() else f"{value:.5g}"
