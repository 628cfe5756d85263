"""A system without file locks of Unix, and its alarm clock, such as Windows, trains all the same."""

import re
import subprocess
import sys

HIDDEN = """
import pathlib, signal, sys, warnings

sys.modules["fcntl"] = None  # an ImportError for whoever imports it
for name in "SIGALRM", "SIGPIPE", "setitimer", "ITIMER_REAL", "pthread_sigmask", "SIG_BLOCK", "SIG_UNBLOCK":
    delattr(signal, name)

warnings.filterwarnings("ignore", "only soft file lock is available")  # of filelock: Windows has another kind
import nas.cli.train

for words in ["run=first"], ["run=first"], ["-m", "run=sweep", "seed=1,2"]:
    words += ["data=synthetic", "data.size=300", "train.threads=1", "train.epochs=1", "train.save_every=2"]
    sys.argv = ["nas-train", *words]
    nas.cli.train.main()
    if words[0] == "run=first":
        max(pathlib.Path("outputs/train/first").glob("step_*")).unlink()
"""


def test_a_system_without_flock_trains_and_resumes(tmp_path):
    ended = subprocess.run([sys.executable, "-c", HIDDEN], cwd=tmp_path, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert re.findall(r"going on at step (\d+) of 4", ended.stdout) == ["2"]
    assert re.search(r"│ seed=2 +│ finished ", ended.stdout)
    assert not list(tmp_path.rglob("run.*"))
