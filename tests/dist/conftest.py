import os
import subprocess
import sys

import pytest

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
        if self.training:
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


@pytest.fixture
def torchrun(tmp_path):
    """Start ``torchrun -m nas.cli.train`` with these words on two processes, in ``tmp_path``."""
    (tmp_path / "net.py").write_text(NETWORK)
    started = []

    def start(*words: str, fault: str = "none:0:0", restarts: int = 0, processes: int = 2) -> subprocess.Popen:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command += [f"--max-restarts={restarts}", "-m", "nas.cli.train", *words]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "FAULT": fault, "COLUMNS": "80"}
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=pipe, stderr=pipe, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def small():
    """The words for a run of twelve steps of the network above."""
    return SMALL
