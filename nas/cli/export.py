"""``nas-export``: a subnetwork as files that others can load."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.cli.entry import run_verb

if TYPE_CHECKING:
    from omegaconf import DictConfig


def job(config: DictConfig, folder: Path) -> dict[str, Any]:
    """Write one subnetwork of a checkpoint into ``folder``; print what it is and how its files compare."""
    from nas.config import settings_from
    from nas.settings import ExportSettings

    settings = settings_from(config, ExportSettings)

    import torch

    from nas.checkpoint import load_trained
    from nas.console import new_console
    from nas.export import export, find_source, ready, tables

    if settings.threads:
        torch.set_num_threads(settings.threads)
    ready(folder, settings.onnx)
    source = find_source(settings.checkpoint, settings.search, settings.architecture)
    out = new_console()
    trained = load_trained(source.checkpoint, out.is_terminal, settings.factory)
    architecture = trained.space.decode(source.architecture)
    with out.status("exporting"):
        exported = export(trained, architecture, folder, settings.program, settings.onnx, settings.pictures)
    out.print(*tables(exported), sep="\n")
    out.print(f"checkpoint: {trained.path}\nfolder:     {folder}")
    return {"architecture": source.architecture}


def main() -> None:
    """Entry point of the console command."""
    run_verb("export", job)


if __name__ == "__main__":
    main()
