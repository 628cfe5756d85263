"""``nas-bench``: measure what gating, or what Jacobians, cost on this machine."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.cli.entry import run_verb
from nas.settings import BenchSettings

if TYPE_CHECKING:
    from rich.console import Console


def job(settings: BenchSettings, folder: Path, out: Console) -> dict[str, Any]:
    """Run the suite, print its table and write it as JSON into ``folder``."""
    from nas.bench.suites import measure, table

    with out.status("measuring") as status:
        say = status.update if out.is_terminal else out.print
        result = measure(settings, lambda what: say(f"measuring {what}"))
    if "stopped" in result:
        out.print(table(result))
        out.print("stopped: the table is not whole, and is not written")
        sys.exit(result["stopped"])
    path = folder / f"{settings.suite}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    out.print(table(result))
    out.print(f"written to {path}")
    return {}


main = partial(run_verb, "bench", BenchSettings, job)

if __name__ == "__main__":
    main()
