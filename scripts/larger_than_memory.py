"""Trains on images that are four times what a cgroup lets a process hold, and measures what that costs.

python scripts/larger_than_memory.py FOLDER > memory.json      # docs/data/ has the result, which docs/images.md shows

In FOLDER it writes JPEGs and 300 MB of decoded images a case. The limit is what the same training on few images takes
at most, and 25 MB. Before each training the decoded images are dropped from the kernel's cache, so that whoever reads
a page is charged for it. It makes a cgroup below its own, which has to be allowed, and removes it.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from nas.checkpoint.file import versions

MANY, FEW, ROUNDS, MORE = 295_000_000, 20_000_000, 5, 25_000_000  # bytes of pixels, but for the rounds
CASES = {
    "128x128, batch 32": (128, "train.batch_size=32 space.widths=[8]"),
    "64x64, batch 64": (64, "train.batch_size=64 space.widths=[8]"),
}
COLUMNS = (
    "",
    "step, ms",
    "its data, no limit, ms",
    "its data, limit, ms",
    "images/s, limit / no limit",
    "pages of files, share",
)
TRAIN = "import sys; from nas.cli.train import main; main()"
WORDS = """data=folder data.crop=0 train.epochs=1 train.threads=1 evaluate.batch_size=32
    space=chain space.depths=[1] space.strides=[4] space.candidates=[conv1,conv3] track.writers=[]"""


def write_images(root: Path, side: int, size: int) -> Path:
    """Images of ``size`` bytes of pixels under ``root``, of which few differ."""
    draws, files = np.random.default_rng(0), []
    for _ in range(20):
        buffer = io.BytesIO()
        small = Image.fromarray(draws.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        small.resize((side, side)).save(buffer, "JPEG")
        files.append(buffer.getvalue())
    for number in range(size // (3 * side**2)):
        folder = root / ("test" if number % 10 == 0 else "train") / "ab"[number // 10 % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.jpg").write_bytes(files[number % len(files)])
    return root


@contextmanager
def cgroup(limit: int | None):
    """A folder of a new cgroup, and the names of its files for a limit and for the most that was used."""
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    first = next((path for _, name, path in lines if name == "memory"), None)
    if first is not None:
        own, most, used = Path("/sys/fs/cgroup/memory" + first), "memory.limit_in_bytes", "memory.max_usage_in_bytes"
    else:
        own, most, used = Path("/sys/fs/cgroup" + lines[0][2]), "memory.max", "memory.peak"
    group = own / f"larger_than_memory_{os.getpid()}"
    group.mkdir()
    try:
        if limit is not None:
            (group / most).write_text(str(limit))
        yield group, used
    finally:
        while (group / "cgroup.procs").read_text():  # of the process that looks after the locks of those that decode
            time.sleep(0.05)
        group.rmdir()


def train(root: Path, words: str, limit: int | None, name: str) -> dict[str, float]:
    """Train in a cgroup: medians of its steps, the most that it has used, and the pages of files at its end."""
    for cached in root.parent.glob("cache/*.u8"):
        with cached.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    place = [f"data.root={root}", f"data.cache={root.parent / 'cache'}", f"run={name}"]
    with cgroup(limit) as (group, used):
        join = f"open({str(group / 'cgroup.procs')!r}, 'w').write('0'); {TRAIN}"
        subprocess.run(
            [sys.executable, "-c", join, *WORDS.split(), *words.split(), *place],
            cwd=root.parent,
            check=True,
            stdout=subprocess.PIPE,
        )
        peak = int((group / used).read_text())
        stat = (line.split() for line in (group / "memory.stat").read_text().splitlines())
        cached = max(int(value) for name, value in stat if name in ("cache", "file"))
    lines = (root.parent / "outputs/train" / name / "metrics.jsonl").read_text().splitlines()
    keys = {"rate": "overview/images_per_s", "step": "time/step_ms", "data": "time/data_ms"}
    steps = [line for line in map(json.loads, lines) if keys["rate"] in line]
    medians = {name: statistics.median(line[key] for line in steps) for name, key in keys.items()}
    return medians | {"peak": peak, "cached": cached}


def main() -> None:
    """Print the result as JSON."""
    rows, raw = list[list[str]](), {}
    for number, (title, (side, words)) in enumerate(CASES.items()):
        folder, words = Path(sys.argv[1]).absolute() / str(number), f"{words} data.image_size={side}"
        few, many = write_images(folder / "few", side, FEW), write_images(folder / "many", side, MANY)
        own = [train(few, words, None, f"few{n}")["peak"] for n in range(2)][1]  # the second decodes nothing
        limit = int(own) + MORE
        train(many, words, None, "decoding")
        rounds = [
            (train(many, words, limit, f"limited{n}"), train(many, words, None, f"free{n}")) for n in range(ROUNDS)
        ]
        raw[title] = {"limit": limit, "rounds": rounds}
        limited, free = zip(*rounds, strict=True)
        ratios = sorted(one["rate"] / other["rate"] for one, other in rounds)
        shown = [
            statistics.median(one[key] for one in which)
            for which, key in ((free, "step"), (free, "data"), (limited, "data"))
        ]
        share = max(one["cached"] for one in limited) / MANY
        spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        rows.append([title, *(f"{ms:.1f}" for ms in shown), spread, f"{share:.2f}"])
        print(title, rounds, file=sys.stderr)
        shutil.rmtree(folder)
    print(json.dumps({"columns": COLUMNS, "rows": rows, "raw": raw, "versions": versions()}, indent=1))


if __name__ == "__main__":
    main()
