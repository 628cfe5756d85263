"""What the folder of a run says of it: read from its report, its metrics and the header of its newest checkpoint."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nas.errors import one_line
from nas.settings.plain import flat

LARGEST = 100_000_000
"""Bytes of a file, or of a header, that are read at most."""
BOUND = 1e300
"""Of the numbers of a curve, so that they can be drawn."""
_DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, ArithmeticError)
"""What reading a damaged file raises."""


@dataclass(frozen=True)
class FoundRun:
    """One run of a verb.

    Attributes:
        run: its folder, below the one that was looked through.
        kind: ``train``, ``search``, ``rank`` or ``export``.
        folder: the same as a path.
        state: ``finished``, ``failed``, ``damaged``, or how far it got.
        why: the reason of one that failed, or whose files are damaged, in a line.
        settings: by their full keys; empty where no file has them.
        found: what came out, in words, where accuracies do not say it.
        best: accuracy on validation images, 0 to 1, of the best subnetwork that was evaluated last.
        mean: of those subnetworks.
        test: accuracy of the best one on test images.
        images_per_s: that it was trained on.
    """

    run: str
    kind: str
    folder: Path
    state: str
    why: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    found: str = ""
    best: float | None = None
    mean: float | None = None
    test: float | None = None
    images_per_s: float | None = None


def find_runs(folder: Path) -> list[FoundRun]:
    """All runs in ``folder`` and below it, in the order of their names; links to folders are not followed."""
    runs = []
    for place, below, names in os.walk(folder):
        below.sort()
        kind = _kind(Path(place), set(names))
        if kind:
            below.clear()  # what is inside of a run is a part of it
            path = Path(place)
            name = printable(path.name if path == folder else str(path.relative_to(folder)))
            runs.append(_read(name, kind, path))
    return runs


def read_points(folder: Path) -> Iterator[dict[str, float]]:
    """The lines of ``metrics.jsonl``: ``step`` and the tags; none if there is no such file.

    Raises:
        ValueError: a line is damaged; the last one may be unfinished.
    """
    path = folder / "metrics.jsonl"
    lines = _text(path).splitlines() if path.is_file() else []
    for number, line in enumerate(lines, 1):
        try:
            point = _plain(line)
            numbers = all(type(value) in (int, float) and abs(value) < BOUND for value in point.values())
            if not numbers or type(point["step"]) is not int:
                raise ValueError
        except (ValueError, AttributeError, KeyError, RecursionError):
            if number == len(lines):
                return  # it is being written, or was when the process was killed
            raise ValueError(f"metrics.jsonl: line {number} is damaged") from None
        yield point


def printable(text: object) -> str:
    """In a line, without what steers a terminal, and not without end: file names may have anything in them."""
    line = "".join(letter if letter.isprintable() else "?" for letter in one_line(str(text)))
    return line if len(line) <= 300 else f"{line[:299]}…"


def _kind(folder: Path, names: set[str]) -> str:
    if "card.json" in names:
        return "export"
    if "rank.csv" in names or "journal.jsonl" in names:
        return "rank"
    if names & {"result.json", "trials.csv", "journal.log"}:
        return "search"
    one = {"metrics.jsonl", "report.json", "failed.txt"}
    return "train" if names & one or any(name.startswith("step_") for name in names) else ""


def _read(name: str, kind: str, folder: Path) -> FoundRun:
    read = {"train": _training, "search": _search, "rank": _ranking, "export": _export}[kind]
    try:
        return FoundRun(name, kind, folder, **read(folder))
    except _DAMAGE as error:
        why = f"a file in it is damaged ({type(error).__name__}: {error}); start its command again, or delete it"
        return FoundRun(name, kind, folder, "damaged", printable(why))


def _training(folder: Path) -> dict[str, Any]:
    if (folder / "report.json").is_file():
        report = _json(folder / "report.json")
        rows = [(float(row["val_accuracy"]), float(row["test_accuracy"])) for row in report["subnetworks"]]
        found = {"state": "finished", "settings": flat(report["settings"]), "best": rows[0][0], "test": rows[0][1]}
        return found | {"mean": sum(val for val, _ in rows) / len(rows), "images_per_s": float(report["images_per_s"])}
    settings, step, last, every = dict[str, Any](), 0, dict[str, float](), 0
    for path in sorted(folder.glob("step_*.safetensors"))[-1:]:
        header = _header(path)
        settings, step = flat(_plain(header["settings"])), int(header["step"])
    for point in read_points(folder):
        step, last = max(step, int(point["step"])), last | point
        every = every or ("overview/accuracy_mean" in point and int(point["step"]))
    state = f"step {step:,}"
    if every and settings:  # steps from one evaluation to the next
        epochs = int(settings["train.epochs"])
        state += f" of {epochs * every // min(int(settings['evaluate.every_epochs']), epochs):,}"
    found = {"state": state, "settings": settings, "images_per_s": last.get("overview/images_per_s")}
    found |= {"best": last.get("overview/accuracy_best"), "mean": last.get("overview/accuracy_mean")}
    if (folder / "failed.txt").is_file():
        found |= {"state": "failed", "why": printable(_text(folder / "failed.txt").partition("\n")[0])}
    return found


def _search(folder: Path) -> dict[str, Any]:
    settings = dict[str, Any]()
    if (folder / "journal.log").is_file():
        settings = flat(_plain(_text(folder / "journal.log").partition("\n")[0])["definition"])
    if not (folder / "result.json").is_file():
        ended = (folder / "trials.csv").is_file()
        found = {"state": "finished", "found": "none within the limits"} if ended else {"state": "unfinished"}
        return found | {"settings": settings}
    result = _json(folder / "result.json")
    words = f"{result['best']}, of {int(result['evaluated']):,} by {', '.join(result['objectives'])}"
    best = result["values"].get("accuracy")
    return {"state": "finished", "settings": settings, "found": printable(words), "best": _number(best)}


def _ranking(folder: Path) -> dict[str, Any]:
    if not (folder / "report.json").is_file():
        return {"state": "unfinished"}
    report = _json(folder / "report.json")
    best = max(report["rows"], key=lambda row: float(row["correlation"]["tau"]))
    words = f"{best['name']}: tau {best['correlation']['tau']:.2f}"
    return {"state": "finished", "settings": flat(report["settings"]), "found": printable(words)}


def _export(folder: Path) -> dict[str, Any]:
    card = _json(folder / "card.json")
    accuracy = card["accuracy"]
    words = f"{card['network']['architecture']} of {card['network']['space']['name']}"
    val, test = _number(accuracy.get("val")), _number(accuracy.get("test"))
    return {"state": "finished", "found": printable(words), "best": val, "test": test}


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _header(path: Path) -> Any:
    """The metadata of a checkpoint, as the format of safetensors has them; its tensors are not looked at."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > LARGEST:
            raise ValueError(f"{path.name} has a header of {size:,} bytes")
        return _plain(file.read(size).decode())["__metadata__"]


def _json(path: Path) -> Any:
    return _plain(_text(path))


def _text(path: Path) -> str:
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{path.name} has more than {LARGEST:,} bytes")
    return path.read_text()


def _plain(text: str) -> Any:
    """JSON without NaN and Infinity, which Python reads and JSON has not."""

    def refuse(word: str) -> None:
        raise ValueError(f"{word} stands for a number")

    return json.loads(text, parse_constant=refuse)
