"""Trains on images that are four times what a cgroup lets a process hold, and measures what that costs.

python scripts/larger_than_memory.py FOLDER > memory.json      # docs/data/ has the result, which docs/images.md shows

In FOLDER it writes 20 MB of JPEGs and 420 MB of decoded images. The limit is what the same training on few images takes
at most, and 30 MB. Before each training the decoded images are dropped from the kernel's cache, so that whoever reads
a page is charged for it. It makes a cgroup below its own, which has to be allowed, and removes it.
"""

from __future__ import annotations

import io
import json
import os
import statistics
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from nas.checkpoint.file import versions

SIDE, MANY, FEW, ROUNDS, MORE = 128, 8500, 400, 3, 40_000_000
TRAIN = "import sys; from nas.cli.train import main; main()"
WORDS = """data=folder data.image_size=128 data.crop=0 train.batch_size=32 train.epochs=1 train.threads=1
    evaluate.batch_size=32
    space=chain space.widths=[8] space.depths=[1] space.strides=[4] space.candidates=[conv1,conv3] track.writers=[]"""


def write_images(root: Path, count: int) -> Path:
    """``count`` images under ``root``, of which few differ."""
    draws, files = np.random.default_rng(0), []
    for _ in range(20):
        buffer = io.BytesIO()
        small = Image.fromarray(draws.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        small.resize((SIDE, SIDE)).save(buffer, "JPEG")
        files.append(buffer.getvalue())
    for number in range(count):
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
        group.rmdir()


def train(root: Path, limit: int | None, name: str) -> dict[str, float]:
    """Train in a cgroup: images/s of its steps, the most that it has used, and the pages of files at its end."""
    for cached in root.parent.glob("cache/*.u8"):
        with cached.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    place = [f"data.root={root}", f"data.cache={root.parent / 'cache'}", f"run={name}"]
    with cgroup(limit) as (group, used):
        join = f"open({str(group / 'cgroup.procs')!r}, 'w').write('0'); {TRAIN}"
        subprocess.run(
            [sys.executable, "-c", join, *WORDS.split(), *place], cwd=root.parent, check=True, stdout=subprocess.PIPE
        )
        peak = int((group / used).read_text())
        stat = (line.split() for line in (group / "memory.stat").read_text().splitlines())
        cached = max(int(value) for name, value in stat if name in ("cache", "file"))
    lines = (root.parent / "outputs/train" / name / "metrics.jsonl").read_text().splitlines()
    rates = [line["overview/images_per_s"] for line in map(json.loads, lines) if "overview/images_per_s" in line]
    return {"images_per_s": statistics.median(rates), "peak_mb": peak / 1e6, "cached_mb": cached / 1e6}


def main() -> None:
    """Print the result as JSON."""
    folder = Path(sys.argv[1]).absolute()
    few, many = write_images(folder / "few", FEW), write_images(folder / "many", MANY)
    own = max(train(few, None, f"few{number}")["peak_mb"] for number in range(2))  # the second finds its cache
    limit = int(own * 1e6) + MORE
    decoded = train(many, limit, "decoding")  # within the limit too
    rounds = [(train(many, limit, f"limited{n}"), train(many, None, f"free{n}")) for n in range(ROUNDS)]
    limited, free = ([one[which]["images_per_s"] for one in rounds] for which in (0, 1))
    found = {
        "images_mb": MANY * 3 * SIDE**2 / 1e6,
        "own_mb": own,
        "limit_mb": limit / 1e6,
        "peak_mb": max([decoded["peak_mb"], *(one["peak_mb"] for one, _ in rounds)]),
        "cached_mb": max(one["cached_mb"] for one, _ in rounds),
        "cached_without_mb": max(one["cached_mb"] for _, one in rounds),
        "peak_without_mb": max(one["peak_mb"] for _, one in rounds),
        "limited_images_per_s": limited,
        "free_images_per_s": free,
        "ratio": [one / other for one, other in zip(limited, free, strict=True)],
        "versions": versions(),
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
