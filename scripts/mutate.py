"""Breaks lines that matter, one at a time, and sees whether a test turns red.

    python scripts/mutate.py                  all of scripts/mutations.json, in copies of this checkout
    python scripts/mutate.py gate search      those whose file or tests have one of the words in their path

A line whose change no test notices *survives*; the exit status is 1 if one does. The checkout itself is never changed.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from time import perf_counter

ROOT = Path(__file__).resolve().parents[1]
MUTATIONS = ROOT / "scripts" / "mutations.json"
COPIED = (
    "nas",
    "conf",
    "hydra_plugins",
    "examples",
    "scripts",
    "tests",
    "docs",
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "pyproject.toml",
)
JOBS = 2
PASSED, FAILED = 0, 1
"""Statuses of pytest; all others mean that the tests could not run."""


def copy_checkout(folder: Path) -> Path:
    """A copy of what the tests need."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.is_file():
            shutil.copy(source, folder / name)
    return folder


def broken(text: str, mutation: dict) -> str:
    """``text`` with the mutation's line replaced; the line must stand there exactly once."""
    if text.count(mutation["old"]) != 1:
        times = text.count(mutation["old"])
        sys.exit(
            f"{mutation['file']}: {mutation['old']!r} stands there {times} times and not once; mend {MUTATIONS.name}"
        )
    return text.replace(mutation["old"], mutation["new"])


def survives(checkout: Path, mutation: dict) -> bool:
    """Whether the mutation's tests pass although its line is broken in ``checkout``."""
    path = checkout / mutation["file"]
    whole = path.read_text()
    path.write_text(broken(whole, mutation))
    try:
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *mutation["tests"].split()]
        environment = {**os.environ, "PYTHONPATH": str(checkout)}
        ended = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    finally:
        path.write_text(whole)
    if ended.returncode not in (PASSED, FAILED):
        sys.exit(f"{mutation['file']}: pytest could not run {mutation['tests']}:\n{ended.stdout[-2000:]}{ended.stderr}")
    return ended.returncode == PASSED


def main() -> None:
    """Break what the command line asks for, print a line each and the count."""
    words = sys.argv[1:]
    chosen = [
        m
        for m in json.loads(MUTATIONS.read_text())
        if not words or any(word in f"{m['file']} {m['tests']}" for word in words)
    ]
    for mutation in chosen:
        broken((ROOT / mutation["file"]).read_text(), mutation)
    with tempfile.TemporaryDirectory() as scratch:
        checkouts: SimpleQueue[Path] = SimpleQueue()
        for number in range(JOBS):
            checkouts.put(copy_checkout(Path(scratch) / str(number)))

        def check(mutation: dict) -> bool:
            checkout, started = checkouts.get(), perf_counter()
            try:
                alive = survives(checkout, mutation)
            finally:
                checkouts.put(checkout)
            word = "SURVIVES" if alive else "red"
            print(
                f"{word:8}  {perf_counter() - started:4.0f} s  {mutation['file']}: {mutation['new'].strip()}",
                flush=True,
            )
            return alive

        with ThreadPoolExecutor(JOBS) as pool:
            alive = sum(pool.map(check, chosen))
    print(f"{len(chosen) - alive} of {len(chosen)} broken lines turn a test red")
    sys.exit(alive > 0)


if __name__ == "__main__":
    main()
