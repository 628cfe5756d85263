"""The curves of several runs in one image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches

from nas.draw import MOST, draw_curves
from nas.errors import require
from nas.runs.found import FoundRun, printable, read_points
from nas.runs.table import in_words

Points = list[tuple[int, float]]


def drawn(
    runs: Sequence[FoundRun], keys: dict[str, list[str]], tags: Sequence[str], say: Callable[[str], None]
) -> bytes:
    """A chart for each tag with a curve for each run that has it, as a PNG.

    Args:
        runs: whose ``metrics.jsonl`` are read.
        keys: what the runs of each kind differ in, which the legend says; the name where that does not tell them apart.
        tags: as in ``metrics.jsonl``.
        say: is told in a line of each file that is damaged.

    Raises:
        SettingError: no run has such a tag, or there are more runs than colours.
    """
    remedy = f"choose among them with --where, or write --first {MOST}"
    require(len(runs) <= MOST, "--plot", ", ".join(tags), f"cannot tell {len(runs)} curves apart", remedy)
    words = [in_words(run, keys[run.kind]) for run in runs]
    charts: dict[str, dict[str, Points]] = {tag: {} for tag in tags}
    known: dict[str, None] = {}
    for run, differs in zip(runs, words, strict=True):
        try:
            points = list(read_points(run.folder))
        except (OSError, ValueError) as error:
            say(f"{run.run}: {printable(error)}")
            continue
        known |= dict.fromkeys(tag for point in points for tag in point)
        for tag, curves in charts.items():
            if found := [(int(point["step"]), point[tag]) for point in points if tag in point]:
                curves[differs if differs and words.count(differs) == 1 else run.run] = found
    for tag, curves in charts.items():
        first = sorted(name for name in known if name.startswith("overview/"))[:3]
        near = ", ".join(get_close_matches(tag, known, 3) or first)
        require(bool(curves), "--plot", tag, "is a curve of none of these runs", f"write for example --plot {near}")
    return draw_curves(charts)
