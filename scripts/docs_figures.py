"""Write the tables of README.md and docs/ from docs/data/, and list the figures that are older than their code.

    python scripts/docs_figures.py                                      write all tables, list what is out of date
    python scripts/docs_figures.py --take gating outputs/bench/.../gating.json   a new result, measured at this commit
    python scripts/docs_figures.py --take front.png outputs/search/first/front.png

A table stands between two comments. The first names a file in docs/data/, a part of it where it has several, and the
rows and headings to show, if not all: <!-- table: gating; gated; multiply by the gate --> and <!-- /table -->.

Such a file holds ``measured`` (command, hardware, versions, n, spread, commit, and the code whose change makes the
figures old), ``kind`` (a function below, or columns as format strings) and ``result``, the JSON that the command
leaves. docs/data/images.json says the same of images. A new figure needs its file once; ``--take`` then renews it.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shutil
import subprocess
import textwrap
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "docs" / "data"
BLOCK = re.compile(r"(<!-- table: ([^;>]+?)(?:; ([^>]+?))? -->\n).*?(<!-- /table -->)", re.DOTALL)
Rows = list[list[str]]


def ratios(result: dict[str, Any]) -> Rows:
    """``nas-bench``, ``suite=fast`` and ``suite=dist``: ratios by column or by number of branches, with their bars."""
    heads = result.get("columns") or {k: f"K = {k}" for k in by_size(result)}
    branches, rows, network = list(heads), [["", *heads.values()]], None
    for row in result["rows"]:
        if row["network"] != network:
            network = row["network"]
            rows.append([f"**{network}**"])
        rows.append([row["what"], *(spread(row["ratios"][k]) if k in row["ratios"] else "" for k in branches)])
        bars = row.get("bars") or (dict.fromkeys(branches, row["bar"]) if row.get("bar") else {})
        if bars:
            bound = row.get("bound", "at most")
            rows.append([f"- {bound}", *(f"{bars[k]:.2f}" if k in bars else "" for k in branches)])
    for what in next(iter(result.get("bytes", {}).values()), ()):
        rows.append([f"sent: {what}", *(f"{result['bytes'][k][what] / 1000:,.0f} kB" for k in branches)])
    return rows


def by_size(result: dict[str, Any]) -> list[str]:
    """The numbers of branches that have ratios."""
    return sorted({k for row in result["rows"] for k in row["ratios"]}, key=int)


def costs(result: dict[str, Any]) -> Rows:
    """``nas-bench suite=jac`` and ``suite=search``: one figure in each row, with its bar and its baseline."""
    both = "taken" in result["rows"][0]
    rows, network = [["", "ratio" if both else "median", "at most", *(["taken", "baseline"] if both else [])]], None
    for row in result["rows"]:
        if row["network"] != network:
            network = row["network"]
            rows.append([f"**{network}**".replace("\n", " ")])
        bar = "" if row.get("bar") is None else f"{row['bar']:g}"
        if row.get("bar_of") == "taken":
            bar += f" {row['unit']}"
        digits = max(2, 1 - math.floor(math.log10(row["median"]))) if row["median"] > 0 else 2
        name = f"- {row['what']}" if row.get("compares") else row["what"]
        rows.append(
            [
                name,
                spread(row, digits),
                bar,
                *(quantity(row[key], row["unit"]) for key in ("taken", "baseline") if both),
            ]
        )
    return rows


def branches(result: dict[str, Any]) -> Rows:
    """``report.json`` of ``nas-train``: for each slot, the accuracy of its choices and their shares of the steps."""
    slots: dict[str, list[str]] = {}
    for row in result["branches"]:
        accuracy = "-" if row["test_accuracy"] is None else f"{row['test_accuracy']:.1%}"
        slots.setdefault(row["slot"], [row["slot"]]).append(f"{accuracy} ({row['share']:.1%})")
    choices = [row["choice"] for row in result["branches"] if row["slot"] == result["branches"][0]["slot"]]
    return [["slot", *choices], *slots.values()]


def regrets(result: dict[str, Any]) -> Rows:
    """``nas-bench suite=find``: what a search lacks of the best network, a column for each table and limit."""
    sections: dict[str, dict[str, dict[str, Any]]] = {}
    for row in result["rows"]:
        where, _, what = row["network"].partition(": ")
        if what == "regret" and "left out" not in where:
            name = re.sub(r"^the \d+ ", "the N ", row["what"])
            sections.setdefault(where, {})[name] = row
    names = dict.fromkeys(name for section in sections.values() for name in section)
    rows = [["", *sections]]
    for name in names:
        rows.append([name, *(mean(section.get(name)) for section in sections.values())])
    bars = [next(row["bar"] for row in section.values() if row["bar"] is not None) for section in sections.values()]
    return [*rows, ["- at most, for the surrogate", *(f"{bar:.2f}" for bar in bars)]]


def others(result: dict[str, Any]) -> Rows:
    """``nas-bench suite=find``: everything but :func:`regrets`, one figure in each row."""
    rows, network = [["", "mean", "bar"]], None
    for row in result["rows"]:
        if row["network"].endswith(": regret") and "left out" not in row["network"]:
            continue
        if row["network"] != network:
            network = row["network"]
            rows.append([f"**{network}**"])
        rows.append([row["what"], mean(row), "" if row["bar"] is None else f"{row['bar']:g}"])
    return rows


def mean(row: dict[str, Any] | None) -> str:
    """The mean, with its error where there are several repeats."""
    if row is None:
        return ""
    return f"{row['mean']:.2f}" + (f" ±{row['error']:.2f}" if row["repeats"] > 1 else "")


def rows(result: dict[str, Any]) -> Rows:
    """A table that stands in the file as it is shown."""
    return [result["columns"], *result["rows"]]


def listed(result: dict[str, Any], key: str, columns: dict[str, str]) -> Rows:
    """One row for each entry of the list ``key``: the file in docs/data/ has a format string for each column."""
    return [list(columns), *([form.format(**entry) for form in columns.values()] for entry in result[key])]


KINDS = {function.__name__: function for function in (ratios, costs, branches, rows, regrets, others)}


def spread(figure: dict[str, float], digits: int = 2) -> str:
    """The median, and half of the distance between the quartiles where there are any."""
    if figure.get("rounds") == 1 or not {"low", "spread"} & figure.keys():
        return f"{figure['median']:.{digits}f}"
    half = figure["spread"] if "spread" in figure else (figure["high"] - figure["low"]) / 2
    return f"{figure['median']:.{digits}f} ±{half:.{digits}f}"


def quantity(value: float, unit: str) -> str:
    """With three significant digits."""
    return f"{value:,.{max(0, min(4, 2 - math.floor(math.log10(max(value, 1e-9)))))}f} {unit}"


def markdown(name: str, shown: list[str], captioned: set[str]) -> str:
    """The table ``NAME`` or ``NAME.PART``, with its caption unless the page has that caption already."""
    name, _, part = name.partition(".")
    data = json.loads((DATA / f"{name}.json").read_text())
    kind = data["kinds"][part] if part else data["kind"]
    head, *body = KINDS[kind](data["result"]) if isinstance(kind, str) else listed(data["result"], **kind)
    body = _chosen([row + [""] * (len(head) - len(row)) for row in body], shown)
    kept = [i for i in range(len(head)) if i == 0 or any(row[i] for row in body)]
    head, body = [head[i] for i in kept], [[row[i] for i in kept] for row in body]
    right = ["---:" if i and any(re.match(r"[-\d]", row[i]) for row in body) else "---" for i in range(len(head))]
    lines = [f"| {' | '.join(row)} |" for row in (head, right, *body)]
    m = data["measured"]
    versions = ", ".join(f"{name} {m[name.lower()]}" for name in ("torch", "Python", "jax") if name.lower() in m)
    about = [f"`{m['command']}`", m["n"], m["spread"], m["hardware"], versions, f"{m['date']}, commit {m['commit']}"]
    caption = "; ".join(filter(None, about)) + "."
    if caption not in captioned:
        lines += ["", *textwrap.wrap(caption, 120, break_long_words=False, break_on_hyphens=False)]
    captioned.add(caption)
    return "\n".join([*lines, "", ""])


def _chosen(body: Rows, shown: list[str]) -> Rows:
    """The rows whose names are shown; where headings are named, of the parts under these alone."""
    headed, inside, chosen = any(row[0].startswith("**") and row[0].strip("*") in shown for row in body), True, []
    for row in body:
        if row[0].startswith("**"):
            inside = not headed or row[0].strip("*") in shown
        if inside and (not shown or row[0].strip("*") in shown):
            chosen.append(row)
    return chosen


def page(text: str) -> str:
    """A page with all its tables written again."""
    captioned: set[str] = set()

    def block(match: re.Match[str]) -> str:
        shown = [name.strip() for name in match[3].split("; ")] if match[3] else []
        return f"{match[1]}{markdown(match[2], shown, captioned)}{match[4]}"

    return BLOCK.sub(block, text)


def pages() -> list[Path]:
    """README and the pages of docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def outdated() -> list[str]:
    """One line for each file of figures whose code has changed since they were measured."""
    lines = []
    for path in sorted(DATA.glob("*.json")):
        data = json.loads(path.read_text())
        for name, m in data.items() if path.stem == "images" else [(path.stem, data["measured"])]:
            command = ["git", "-C", str(ROOT), "rev-list", "--count", f"{m['commit']}..HEAD", "--", *m["code"]]
            found = subprocess.run(command, capture_output=True, text=True, check=False)
            if found.returncode:
                lines.append(f"{name}: commit {m['commit']} is not in this clone")
            elif int(found.stdout):
                lines.append(f"{name}: {int(found.stdout)} newer commits in {', '.join(m['code'])}; {m['command']}")
    return lines


def take(name: str, source: Path) -> None:
    """Replace a result, or an image, by a new one that was measured at this commit."""
    path = DATA / ("images.json" if name.endswith(".png") else f"{name}.json")
    data = json.loads(path.read_text())
    measured = data[name] if name.endswith(".png") else data["measured"]
    if name.endswith(".png"):
        shutil.copyfile(source, ROOT / "docs" / name)
    else:
        data["result"] = json.loads(source.read_text())
        versions = data["result"].get("versions", {}) | data["result"].pop("machine", {})
        measured |= {key: versions[key] for key in ("torch", "python") if key in versions}
        if "cpu" in versions:
            measured["hardware"] = versions["cpu"]
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    measured |= {"commit": commit, "date": date.today().isoformat()}
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="docs_figures", description=__doc__.splitlines()[0])
    parser.add_argument("--take", nargs=2, metavar=("NAME", "FILE"), help="take a new result or image first")
    asked = parser.parse_args()
    if asked.take:
        take(asked.take[0], Path(asked.take[1]))
    for path in pages():
        before = path.read_text()
        if page(before) != before:
            path.write_text(page(before))
            print(f"written: {path.relative_to(ROOT)}")
    print("\n".join(["older than their code:", *outdated()]))


if __name__ == "__main__":
    main()
