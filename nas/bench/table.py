"""What the tables of all suites share: a title, a machine, sections, and figures with their spread."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table


def frame(title: str, result: Mapping[str, Any], left_out: Sequence[str] = ()) -> Table:
    """A table with its title, what it was measured on and what is missing, and one column, for the rows' names."""
    about = result["machine"]
    threads = "1 thread" if about["threads"] == "1" else f"{about['threads']} threads"
    shown = Table(title=f"{title}, {threads}", title_justify="left")
    shown.caption_justify = "left"
    caption = f"{about['cpu']}; torch {about['torch']}, Python {about['python']}"
    shown.caption = "\n".join([caption, *(f"left out: {what}" for what in left_out)])
    shown.add_column("", no_wrap=True)
    return shown


def in_sections(table: Table, rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows, with a line and a heading put into ``table`` before the first of each ``network``."""
    for row, before in zip(rows, [None, *rows], strict=False):
        if before is None or row["network"] != before["network"]:
            table.add_section()
            table.add_row(row["network"], style="bold")
        yield row


def spread(ratio: Mapping[str, float], digits: int = 2) -> str:
    """The median and half of the distance between the quartiles, with ``digits`` behind the point."""
    return f"{ratio['median']:.{digits}f} ±{(ratio['high'] - ratio['low']) / 2:.{digits}f}"
