"""The curves of several runs in one image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches

from nas.draw import LONGEST, MOST, draw_curves
from nas.errors import require
from nas.runs.found import FoundRun, printable, read_points
from nas.runs.table import compared, in_words

Points = list[tuple[int, float]]


def drawn(runs: Sequence[FoundRun], tags: Sequence[str], say: Callable[[str], None]) -> bytes:
    """A chart for each tag with a curve for each run that has it, as a PNG.

    The legend says what the runs that are drawn differ in, or their names where that is long or tells none apart.

    Args:
        runs: whose ``metrics.jsonl`` are read.
        tags: as in ``metrics.jsonl``.
        say: is told in a line of each file that is damaged.

    Raises:
        SettingError: no run has such a tag, or there are more runs than colours.
    """
    found: dict[str, tuple[FoundRun, list[dict[str, float]]]] = {}
    known: dict[str, None] = {}
    for run in runs:
        try:
            points = list(read_points(run.folder))
        except (OSError, ValueError) as error:
            say(f"{run.run}: {printable(error)}")
            continue
        known |= dict.fromkeys(tag for point in points for tag in point)
        if any(tag in point for point in points for tag in tags):
            found[run.run] = run, points
    remedy = f"choose among them with --where, or write --first {MOST}"
    require(len(found) <= MOST, "--plot", ", ".join(tags), f"cannot tell {len(found)} curves apart", remedy)
    keys = compared([run for run, _ in found.values()])
    words = {name: in_words(run, keys[run.kind]) for name, (run, _) in found.items()}
    told = all(0 < len(text) <= LONGEST for text in words.values()) and len({*words.values()}) == len(words)
    charts: dict[str, dict[str, Points]] = {tag: {} for tag in tags}
    for tag, curves in charts.items():
        for name, (_, points) in found.items():
            if curve := [(int(point["step"]), point[tag]) for point in points if tag in point]:
                curves[words[name] if told else name] = curve
        first = sorted(name for name in known if name.startswith("overview/"))[:3]
        near = ", ".join(get_close_matches(tag, known, 3) or first)
        require(bool(curves), "--plot", tag, "is a curve of none of these runs", f"write for example --plot {near}")
    return draw_curves(charts)
