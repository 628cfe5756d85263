"""``nas-bench``: measure what gating, or what Jacobians, cost on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.cli.entry import run_verb

if TYPE_CHECKING:
    from omegaconf import DictConfig


def job(config: DictConfig, folder: Path) -> dict[str, Any]:
    """Run the suite, print its table and write it as JSON into ``folder``."""
    from nas.config import settings_from
    from nas.settings import BenchSettings

    settings = settings_from(config, BenchSettings)

    import torch

    from nas.bench.suites import measure, table
    from nas.console import new_console
    from nas.cost.allocator import keep_freed_memory

    keep_freed_memory()
    torch.set_num_threads(settings.threads)
    out = new_console()
    with out.status("measuring") as status:
        result = measure(settings, lambda what: status.update(f"measuring {what}"))
    path = folder / f"{settings.suite}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    out.print(table(result))
    out.print(f"written to {path}")
    return {}


def main() -> None:
    """Entry point of the console command."""
    run_verb("bench", job)


if __name__ == "__main__":
    main()
