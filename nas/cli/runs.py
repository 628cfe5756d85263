"""``nas-runs``: the runs below a folder in one table, and their curves in one image."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from nas.cli.entry import versions
from nas.cli.task import end, end_closed_pipe
from nas.errors import NasError, require
from nas.files import write_whole
from nas.signals import on_stop

ABOUT = """\
nas-runs: a table of all runs below a folder: what they differ in, accuracies, images/s, finished or not.

  nas-runs                                                 all that is in outputs/
  nas-runs outputs/train/sweep --sort test                 the best on test images first
  nas-runs --where kind=train --where gate=fair --sort optimizer.lr
  nas-runs --csv runs.csv                                  the same as CSV, a column for each setting that differs
  nas-runs --sort best --first 5 --plot overview/accuracy_mean --plot train/loss --out curves.png

Columns for --where and --sort: run, kind, state, found, best, mean, test, images_per_s, and any setting. Figures go
from large to small, all else from small to large; --sort=-KEY turns that round. Files are read and nothing else.
"""


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong."""

    def error(self, message: str) -> NoReturn:
        end("runs", f"{message}; nas-runs --help shows examples")


def parser() -> Parser:
    """What the command line may have."""
    found = Parser("nas-runs", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("folder", nargs="?", default="outputs", type=Path, help="where to look; outputs if left out")
    found.add_argument(
        "--where", metavar="KEY=VALUE", action="append", default=[], help="these runs alone; * is any text"
    )
    found.add_argument("--sort", metavar="KEY", default="run", help="by a column or a setting; by name if left out")
    found.add_argument("--first", metavar="N", type=int, help="at most so many rows and curves")
    found.add_argument("--csv", metavar="FILE", type=Path, help="write the table there too")
    found.add_argument(
        "--plot", metavar="TAG", action="append", default=[], help="draw these curves, as in metrics.jsonl"
    )
    found.add_argument("--out", metavar="FILE", type=Path, default=Path("curves.png"), help="where to; curves.png")
    found.add_argument("--version", action="version", version=versions())
    return found


def main() -> None:
    """Entry point of the console command."""
    on_stop(lambda number, _: sys.exit(128 + number))
    try:
        _job(parser().parse_args())
    except BrokenPipeError:
        end_closed_pipe()
    except NasError as error:
        end("runs", str(error))
    except OSError as error:  # of --csv and --out
        end("runs", f"{error.filename}: {error.strerror}; name a file that can be written")


def _job(given: argparse.Namespace) -> None:
    from nas.console import new_console
    from nas.runs import compared, find_runs, first_rows, make_table, picked, write_table

    ok = given.first is None or given.first > 0
    require(ok, "--first", given.first, "must be above 0", "leave it out for all")
    runs = find_runs(given.folder)
    remedy = "name a folder that nas-train, nas-search, nas-rank or nas-export has written to"
    require(bool(runs), "folder", given.folder, "has no runs in it", remedy)
    runs = first_rows(picked(runs, given.where), given.sort)[: given.first]
    require(bool(runs), "--where", " ".join(given.where), "holds for none of the runs", "leave one of them out")
    differ, out = compared(runs), new_console()
    out.print(make_table(runs, differ))
    for run in runs:
        if run.why:
            out.print(f"{run.run}: {run.why}")
    if given.csv:
        write_table(given.csv, runs, differ)
        out.print(f"table:  {given.csv}")
    if given.plot:
        from nas.runs.curves import drawn

        write_whole(given.out, drawn(runs, given.plot, out.print))
        out.print(f"curves: {given.out}")


if __name__ == "__main__":
    main()
