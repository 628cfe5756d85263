"""What the verbs print: one console, one progress bar, and tables whose names and figures are never cut off."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from time import perf_counter
from typing import IO, TYPE_CHECKING, Any, TypeVar

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")

WIDTH = 100
"""Columns that every console has at least, and that every table fits."""
BESIDE = 57
"""Columns of what stands beside the bar of a training, which has most to say."""
REFRESH_S = 0.2
"""Between two drawings of a bar, so that drawing does not slow the work down."""


def new_console(file: IO[str] | None = None, stderr: bool = False, quiet: bool = False) -> Console:
    """A console that prints text as it is: long lines are not wrapped, and ``[conv3,skip]`` is no markup.

    Args:
        file: where to; standard output if not given.
        stderr: to standard error.
        quiet: print nothing at all.
    """
    out = Console(file=file, stderr=stderr, quiet=quiet, soft_wrap=True, highlight=False, markup=False, emoji=False)
    out.width = max(out.width, WIDTH)
    return out


class ProgressBar:
    """A bar with the time left and the latest news, drawn on a terminal or in a notebook and nowhere else.

    Args:
        label: what goes on.
        total: number of things to do.
        done: how many of them were done before.
        shown: False draws nothing.
        console: where to; standard output if not given.
    """

    def __init__(
        self, label: str, total: int, done: int = 0, shown: bool = True, console: Console | None = None
    ) -> None:
        self.console = console or new_console()
        on_terminal = shown and self.console.is_terminal
        self.drawn = on_terminal or (shown and self.console.is_jupyter)
        # Lines may be wider than the terminal, a bar that is drawn again and again may not.
        bar = BarColumn(min(40, max(5, shutil.get_terminal_size((WIDTH, 24)).columns - BESIDE)))
        columns = (bar, MofNCompleteColumn(), TextColumn("{task.fields[news]}"), _TimeLeft())
        self._bar = Progress(
            TextColumn(label), *columns, TextColumn("left"), console=self.console, disable=not on_terminal
        )
        self._task = self._bar.add_task(label, total=total, completed=done, news="", left_s=None)
        self._total, self._next = total, 0.0
        self._output: Any = None  # what shows the bar in a notebook; rich's own way there needs ipywidgets

    def __enter__(self) -> Self:
        self._bar.start()
        if self.drawn and self.console.is_jupyter:
            from IPython.display import display

            self._output = display(self._bar, display_id=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def is_due(self, done: float) -> bool:
        """Whether :meth:`update` would draw now: five times a second, and at the end."""
        return self.drawn and (done == self._total or perf_counter() >= self._next)

    def update(self, done: float, news: str = "", left_s: float | None = None) -> None:
        """Say how many things are done, a part of one included; drawn if it is time.

        Args:
            done: their number.
            news: stands behind it.
            left_s: seconds that are left; if not given, what the last things have taken says it.
        """
        if self.is_due(done):
            self._next = perf_counter() + REFRESH_S
            self._bar.update(self._task, completed=done, news=news, left_s=left_s)
            if self._output is not None:
                self._output.update(self._bar)


class _TimeLeft(TimeRemainingColumn):
    """The time left, as whoever works has said it, or as rich makes it out."""

    style = "progress.remaining"

    def render(self, task: Task) -> Text:
        left: float | None = task.fields["left_s"]
        return super().render(task) if left is None else Text(str(timedelta(seconds=round(left))), self.style)


def track(
    items: Iterable[T], label: str, total: int, shown: bool = True, console: Console | None = None
) -> Iterator[T]:
    """The items, with a :class:`ProgressBar` while they are worked on."""
    with ProgressBar(label, total, shown=shown, console=console) as bar:
        for number, item in enumerate(items, 1):
            yield item
            bar.update(number)


class ResultTable:
    """A table of names, such as architectures, and of figures; all of them are shown whole.

    Where the console is too narrow, the longest names stand below the table, each on a line of its own behind the
    number of its row.

    Args:
        title: above the table.
        names: heads of the columns of names, which come first.
        figures: heads of the columns of figures.
        numbered: number the rows in any case.
    """

    def __init__(self, title: str, names: Sequence[str], figures: Sequence[str], numbered: bool = False) -> None:
        self.title, self.caption, self.numbered = title, "", numbered
        self._heads, self._names, self.rows = [*names, *figures], len(names), list[Sequence[str]]()
        self._styles, self._sections = list[str](), set[int]()

    def add_row(self, *cells: str, style: str = "") -> None:
        """Add a row, with a cell for each column."""
        assert len(cells) == len(self._heads), cells
        self.rows.append(cells)
        self._styles.append(style)

    def add_section(self) -> None:
        """Draw a line below the last row."""
        self._sections.add(len(self.rows))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widths = [max(map(cell_len, column)) for column in zip(self._heads, *self.rows, strict=True)]
        kept, below = list(range(len(widths))), list[int]()
        while self._width(widths, kept, below) > options.max_width and any(k < self._names for k in kept):
            longest = max((k for k in kept if k < self._names), key=lambda k: widths[k])
            kept.remove(longest)
            below = sorted([*below, longest])
        table = Table()
        if self.numbered or below:
            table.add_column("", justify="right", no_wrap=True)
        for k in kept:
            table.add_column(self._heads[k], justify="left" if k < self._names else "right", no_wrap=True)
        for number, row in enumerate(self.rows, 1):
            first = [str(number)] if self.numbered or below else []
            cells = (Text(cell) for cell in (*first, *(row[k] for k in kept)))
            table.add_row(*cells, style=self._styles[number - 1], end_section=number in self._sections)
        yield Text(textwrap.fill(self.title, options.max_width), style="italic")
        yield table
        for number, row in enumerate(self.rows, 1) if below else ():
            for k in below:
                yield Text(f"{number if k == below[0] else '':>3}  {row[k]}")
        if self.caption:
            yield Text(textwrap.fill(self.caption, options.max_width), style="dim italic")

    def _width(self, widths: Sequence[int], kept: Sequence[int], below: Sequence[int]) -> int:
        numbers = [len(str(len(self.rows)))] if self.numbered or below else []
        inside = [*numbers, *(widths[k] for k in kept)]
        return sum(inside) + 3 * len(inside) + 1
