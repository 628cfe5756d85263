"""How long a command takes to its first step of training, and which imports take most of that.

    python scripts/startup.py                        # nas-train as it comes, five times
    python scripts/startup.py --against ../before    # another checkout in turn, with the ratio
    python scripts/startup.py --whole data=digits train.epochs=20    # to its end

Seconds of CPU time, which other jobs on the machine lengthen less than the time on the clock; medians, with half the
distance between the quartiles. The environment is this one for both.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory

FIRST = """
import os, sys, time
from nas.cli import train

def to_the_step(*given):
    from nas.train.step import TrainStep
    TrainStep.__call__ = lambda *_, **__: sys.exit(f"FIRST {time.process_time()}")
    return begin(*given)

begin, train._train = train._train, to_the_step
train.main()
"""
WHOLE = """
import sys, time
from nas.cli import train
train.main()
sys.exit(f"FIRST {time.process_time()}")
"""
SHOWN = 12


def once(checkout: Path, words: list[str], *flags: str, code: str = FIRST) -> str:
    """What a run prints on standard error up to its first step, or to its end."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    with TemporaryDirectory() as folder:
        command = [sys.executable, *flags, "-c", code, *words]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if "FIRST" not in done.stderr:
        sys.exit(done.stderr)
    return done.stderr


def main() -> None:
    """Measure, print, and list the imports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--whole", action="store_true", help="to the end of the run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("words", nargs="*", help="of nas-train")
    given = parser.parse_args()
    here = Path(__file__).resolve().parents[1]
    checkouts = [here, *([given.against.resolve()] if given.against else [])]
    for checkout in checkouts:
        once(checkout, given.words)  # compiles the modules
    seconds: dict[Path, list[float]] = {checkout: [] for checkout in checkouts}
    for _ in range(given.rounds):
        for checkout in checkouts:
            said = once(checkout, given.words, code=WHOLE if given.whole else FIRST)
            seconds[checkout].append(float(said.rpartition("FIRST ")[2]))
    for checkout, found in seconds.items():
        low, _, high = quantiles(found, n=4)
        spread, end = (high - low) / 2, "end" if given.whole else "first step"
        print(f"{median(found):.2f} ±{spread:.2f} s to the {end}, n = {len(found)}: {checkout.name}")
    if given.against:
        print(f"ratio of the medians: {median(seconds[here]) / median(seconds[checkouts[1]]):.2f}")
    times: dict[str, int] = {}
    imports = once(here, given.words, "-X", "importtime")
    for own, name in re.findall(r"import time:\s+(\d+) \|\s+\d+ \|\s*(\w+)", imports):
        times[name] = times.get(name, 0) + int(own)
    largest = sorted(times, key=lambda name: -times[name])[:SHOWN]
    print("imports, ms:", ", ".join(f"{name} {times[name] / 1000:.0f}" for name in largest))


if __name__ == "__main__":
    main()
