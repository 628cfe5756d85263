from contextlib import contextmanager

import pytest
from support import processes

NETWORK = '''
import os, signal
from torch import nn
from nas.errors import DataError
from nas.nn import GatedSum

class Net(nn.Module):
    """Two slots and a dropout; one process of it does what FAULT=what:rank:step says, before the first restart."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2)
        self.first = GatedSum([nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.Identity()])
        self.second = GatedSum([nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)])
        self.drop, self.fc, self.steps = nn.Dropout(0.2), nn.Linear(4, 10), 0

    def forward(self, x, architecture):
        if self.training and len(x) > 8:  # fewer are for the estimate of memory
            self.steps += 1
            self.fault()
        y = self.second(self.first(self.stem(x).relu(), architecture[0]).relu(), architecture[1])
        return self.fc(self.drop(y.mean((2, 3))))

    def fault(self):
        what, rank, step = os.environ.get("FAULT", "none:0:0").split(":")
        here = os.environ.get("RANK", "0") == rank and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
        if not here or self.steps != int(step):
            return
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "stop":
            os.kill(os.getpid(), signal.SIGTERM)
        if what == "raise":
            raise RuntimeError("a mistake in the network")
        if what == "refuse":
            raise DataError("data.root", "here", "is gone", "bring it back")
'''
SMALL = (
    "space=custom",
    "space.factory=net:Net",
    "data=synthetic",
    "data.size=300",
    "train.epochs=3",
    "train.threads=1",
    "train.save_every=2",
    "evaluate.recalibrate=false",
)
"""12 steps, a checkpoint every 2."""


@contextmanager
def starting(folder):
    """A function that starts ``torchrun -m nas.cli.train`` in ``folder``; ends what it has started."""
    started = []
    (folder / "net.py").write_text(NETWORK)

    def start(*words, fault="none:0:0", restarts=0, how=("--standalone", "--nproc-per-node=2"), **more):
        environment = {"OMP_NUM_THREADS": "1", "FAULT": fault, "COLUMNS": "80"}
        options = (*how, f"--max-restarts={restarts}")
        started.append(processes.torchrun(*words, options=options, folder=folder, environment=environment, **more))
        return started[-1]

    try:
        yield start
    finally:
        for process in started:
            process.kill()


@pytest.fixture
def torchrun(tmp_path):
    """Start ``torchrun -m nas.cli.train`` with these words on two processes, in ``tmp_path``."""
    with starting(tmp_path) as start:
        yield start


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """The folder of the small run when nothing happens to it, and what it printed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with starting(folder) as start:
        status, out, err = start(*SMALL, "run=undisturbed").end()
    assert status == 0, err
    assert "nas-train" not in err
    return folder / "outputs" / "train" / "undisturbed", out


@pytest.fixture
def small():
    """The words for a run of twelve steps of the network above."""
    return SMALL
