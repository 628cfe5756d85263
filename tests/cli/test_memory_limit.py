"""A command under ``ulimit -v`` says what it needs; what cannot fit is refused and leaves nothing."""

import re
from contextlib import contextmanager
from pathlib import Path

import pytest

GIB = 2**30
pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the address space is read from /proc")


@contextmanager
def half_a_gib_more():
    """As much address space as the process has, and 0.5 GiB."""
    import resource  # which Windows lacks

    mapped = 1024 * int(re.search(r"VmSize:\s+(\d+)", Path("/proc/self/status").read_text())[1])
    resource.setrlimit(resource.RLIMIT_AS, (mapped + GIB // 2, mapped + GIB // 2))
    yield


def test_what_cannot_fit_is_refused_and_leaves_nothing(start, tiny, tmp_path):
    status, out, err = start(*tiny, "run=small", injected=half_a_gib_more).end()
    assert status == 0, err
    assert re.match(r"needs about [\d.]+ GiB \(.*process [\d.]+\), ulimit -v is [\d.]+ GiB\n", out)

    words = ("run=large", "data.size=5000", "space.branches=2", "train.batch_size=4096", "data.image_size=64")
    status, out, err = start(*tiny, *words, injected=half_a_gib_more).end()
    assert (status, out) == (1, "")
    told = r"nas-train: train\.batch_size=4096: the run needs about [\d.]+ GiB \(.*\), ulimit -v is [\d.]+ GiB; "
    assert re.fullmatch(told + r"write train\.batch_size=(\d+) or less\n", err)
    assert [path.name for path in (tmp_path / "outputs" / "train").iterdir()] == ["small"]
