"""``nas-export``: a subnetwork as files that others can load."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.cli.entry import run_verb
from nas.settings import ExportSettings

if TYPE_CHECKING:
    from rich.console import Console


def job(settings: ExportSettings, folder: Path, out: Console) -> dict[str, Any]:
    """Write one subnetwork of a checkpoint into ``folder``; print what it is and how its files compare."""
    from nas.checkpoint import load_trained
    from nas.export import export, find_source, ready, tables
    from nas.threads import Threads, passes

    ready(folder, settings.onnx)
    source = find_source(settings.checkpoint, settings.search, settings.architecture)
    trained = load_trained(source.checkpoint, out.is_terminal, settings.factory)
    architecture = trained.space.decode(source.architecture)
    with Threads(settings.threads, "pass") as threads, out.status("exporting"):
        if line := threads.choose(lambda: passes(trained.supernet, trained.sample(), [architecture])):
            out.print(line)
        how = settings.program, settings.onnx, settings.pictures, settings.fold_normalisation
        exported = export(trained, architecture, folder, *how)
    out.print(*tables(exported), sep="\n")
    out.print(f"checkpoint: {trained.path}\nfolder:     {folder}")
    return {"architecture": source.architecture}


main = partial(run_verb, "export", ExportSettings, job)

if __name__ == "__main__":
    main()
