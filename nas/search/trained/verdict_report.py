"""The verdict of a search in its report: lines, a table, an image, and JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from nas.draw import draw_verdict
from nas.search.objectives import TRAINED
from nas.search.outcome import SearchOutcome
from nas.search.propose.proposers import SEARCH
from nas.search.trained.verdict import Verdict

VERDICT = "verdict"
"""Name of the image."""


def verdict_lines(outcome: SearchOutcome) -> list[str]:
    """The verdict on the best network, or why there is none; nothing where no networks were trained."""
    if outcome.spent is None:
        return []
    if outcome.verdict is not None:
        return [f"verdict: {outcome.verdict.sentence}", *outcome.verdict.remarks]
    failed = [t.failed for t in outcome.trials if t.failed and t.stage != SEARCH]
    if outcome.best is None and not outcome.feasible:
        why = "no network was trained within the limits"
    elif outcome.best is None:
        why = f"not one network of the finals could be trained again; the last: {failed[-1]}"
    elif failed:
        why = f"{len(failed)} trainings of its {2 * outcome.spent.networks} failed; the last: {failed[-1]}"
    else:
        why = "the space has no other network"
    return [f"no verdict: {why}"]


def pair_rows(verdict: Verdict) -> list[str]:
    """The trainings of a verdict as a table in Markdown."""

    def text(accuracy: float | None) -> str:
        return "failed" if accuracy is None else TRAINED.text(accuracy)

    rows = ["| draw | winner % | random % | random network |", "| ---: | ---: | ---: | --- |"]
    for pair in verdict.pairs:
        rows.append(f"| {pair.draw} | {text(pair.winner)} | {text(pair.random)} | {as_code(pair.network)} |")
    return rows


def drawn_verdict(verdict: Verdict) -> bytes:
    """Its pairs as a PNG."""
    draws = [pair.draw for pair in verdict.pairs if None not in (pair.winner, pair.random)]
    winner, random = ([100 * accuracy for accuracy in one] for one in zip(*verdict.whole, strict=True))
    return draw_verdict(draws, winner, random, verdict.sentence)


def as_json(verdict: Verdict) -> dict[str, Any]:
    """All that is known of it, and the sentence."""
    return {"sentence": verdict.sentence, **asdict(verdict)}


def as_code(name: str) -> str:
    """An architecture in a table in Markdown: a cell's name is made of bars."""
    return "`" + name.replace("|", "\\|") + "`"
