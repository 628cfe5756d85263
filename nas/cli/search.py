"""``nas-search``: find good subnetworks of a trained supernet, or good architectures before any training."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.cli.entry import run_verb, stoppable, tensorboard
from nas.settings import SearchRunSettings

if TYPE_CHECKING:
    from rich.console import Console


def job(settings: SearchRunSettings, folder: Path, out: Console) -> dict[str, Any]:
    """Search, or go on searching, in ``folder``; print the front."""
    from nas.search import Search, files, front_table, search, summary

    run = Search(settings, folder)
    space, study = run.target.space, run.study
    with closing(study):
        before = study.finished()
        begun = f"going on after {before:,} trials" if before else f"sampler {settings.search.sampler}"
        if settings.search.progress:
            names = ", ".join(settings.search.objectives)
            out.print(f"{space.name}: {space.size:,} architectures, {names}; {begun}; {folder}")
            if run.measures.remark:
                out.print(f"{space.name}: {run.measures.remark}")
            if run.stages is not None:
                out.print(str(run.stages.budget))
        with stoppable(out, settings.run, lambda: f" after {study.finished():,} trials"):
            found = search(run)
    if found.front:
        out.print(front_table(found))
    out.print(*summary(found), sep="\n")
    out.print(f"run:         {folder} ({', '.join(files(folder))})\n{tensorboard(folder.parent)}")
    if found.best is None:
        return {}
    figures = {name: found.best.values[name] for name in settings.search.objectives}
    if found.verdict is not None:
        figures |= {"better_by": found.verdict.difference, "low": found.verdict.low, "high": found.verdict.high}
    return {"architecture": space.encode(found.best.architecture), **figures}


main = partial(run_verb, "search", SearchRunSettings, job)

if __name__ == "__main__":
    main()
