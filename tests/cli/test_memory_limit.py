"""A command under ``ulimit -v`` says what it needs; it is refused, or it ends well."""

import re
import resource
from pathlib import Path

import pytest

GIB = 2**30
WORDS = ("data=synthetic", "data.size=5000", "data.crop=0", "train.threads=1", "train.epochs=1", "evaluate.rounds=1")
pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the address space is read from /proc")


@pytest.fixture
def under(start_command):
    """Run ``nas-train`` with so many bytes of address space; its status and what it printed."""

    def run(limit, *words):
        process = start_command(
            *WORDS, *words, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        )
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err

    return run


def test_what_is_refused_leaves_nothing_and_what_is_advised_instead_ends_well(under, tmp_path):
    status, out, err = under(64 * GIB, "run=tiny", "data.size=300")
    assert status == 0, err
    line = r"needs about [\d.]+ GiB \(.*process ([\d.]+)\); ulimit -v is 64.00 GiB"
    process = float(re.match(line, out)[1])  # of which there is more on some machines: torch maps some GB

    limit = round((process + 0.4) * GIB)
    status, out, err = under(limit, "run=large", "train.batch_size=4096")
    assert (status, out) == (1, "")
    told = r"nas-train: train\.batch_size=4096: the run needs about [\d.]+ GiB \(.*\), ulimit -v is [\d.]+ GiB; "
    advised = re.fullmatch(told + r"write train\.batch_size=(\d+) or less\n", err)
    assert advised, err
    assert [path.name for path in (tmp_path / "outputs" / "train").iterdir()] == ["tiny"]

    status, out, err = under(limit, "run=smaller", f"train.batch_size={advised[1]}")
    assert status == 0, err
    assert out.startswith("needs about ")
    assert (tmp_path / "outputs" / "train" / "smaller" / "report.json").is_file()
