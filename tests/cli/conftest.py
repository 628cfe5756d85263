import importlib
import os
import signal
import subprocess
import sys
import threading
import warnings
from contextlib import contextmanager
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from support.processes import Started, verb

from nas import checkpoint

TINY = ("data=synthetic", "data.size=300", "train.threads=1", "train.epochs=1", "track.writers=[]")
"""Four steps."""


class Ended(NamedTuple):
    """How a command has ended."""

    status: int
    out: str
    err: str


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Run ``nas-VERB`` with these words in an empty folder, in this process."""
    monkeypatch.chdir(tmp_path)
    # What a command may set for its process.
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(verb: str, *words: str) -> Ended:
        monkeypatch.setattr(sys, "argv", [f"nas-{verb}", *words])
        capsys.readouterr()
        status = 0
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            try:
                importlib.import_module(f"nas.cli.{verb}").main()
            except SystemExit as stop:
                status = stop.code
        return Ended(status, *capsys.readouterr())

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def nas_train(command):
    """Run ``nas-train`` with these words."""
    return partial(command, "train")


@pytest.fixture
def nas_export(command):
    """Run ``nas-export`` with these words."""
    return partial(command, "export")


@pytest.fixture
def nas_rank(command):
    """Run ``nas-rank`` with these words."""
    return partial(command, "rank")


@pytest.fixture
def nas_score(command):
    """Run ``nas-score`` with these words."""
    return partial(command, "score")


@pytest.fixture
def nas_search(command):
    """Run ``nas-search`` with these words."""
    return partial(command, "search")


@pytest.fixture
def stopped_at():
    """A context in which this process gets a signal as soon as a file, as in ``*/step_*.safetensors``, is in place."""

    @contextmanager
    def stop(pattern: str, number: int):
        replace = os.replace

        def replace_and_stop(beside, path):
            replace(beside, path)
            if fnmatch(path, pattern):
                os.replace = replace
                os.kill(os.getpid(), number)

        os.replace = replace_and_stop
        try:
            yield
        finally:
            os.replace = replace

    return stop


@pytest.fixture
def start(tmp_path):
    """Start ``nas-train`` with these words in the same folder, in a forked process; ``how`` as of ``Started``."""
    started = []

    def run(*words: str, **how) -> Started:
        started.append(verb("train", *words, folder=tmp_path, **how))
        return started[-1]

    yield run
    for process in started:
        process.kill()


@pytest.fixture
def start_command(tmp_path):
    """Start ``nas-train`` with these words in the same folder, as a shell does: for what workers of it inherit."""
    command = Path(sys.executable).with_name("nas-train")
    started = []

    def run(*words: str, **more) -> subprocess.Popen:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            [command, *words], cwd=tmp_path, env=environment, stdout=pipe, stderr=pipe, text=True, **more
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def tiny():
    """The words for a run of four steps."""
    return TINY


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(checkpoint.saved(folder)[0])["model"]


@pytest.fixture
def same_weights():
    """Whether the newest checkpoints of two runs agree in every bit of the network."""

    def compare(left: Path, right: Path) -> bool:
        a, b = _weights(left), _weights(right)
        return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)

    return compare


@pytest.fixture
def all_bytes():
    """What lies in a folder, to be compared."""
    return lambda folder: {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
