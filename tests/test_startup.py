"""What a command imports: libraries that take seconds are imported where they are used, and not before."""

import os
import subprocess
import sys
from pathlib import Path

import nas

SLOW = {
    "matplotlib",
    "optuna",
    "pandas",
    "scipy",
    "sklearn",
    "sympy",
    "tensorboard",
    "torch._dynamo",
    "torch._inductor",
    "torchvision",
}
RUN = """
import sys
from nas.cli.train import main
main()
import nas.score, nas.search, nas.rank, nas.export
print(*sys.modules, file=sys.stderr)
"""
WORDS = (
    "data=digits",
    "data.train_images=100",
    "train.batch_size=8",
    "train.epochs=1",
    "train.threads=1",
    "track.writers=[]",
    "run=tiny",
)


def test_a_run_imports_only_what_it_uses(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(nas.__file__).parents[1])}
    command = [sys.executable, "-c", RUN, *WORDS, "optimizer=adamw", "gate=learned", "train.ema_decay=0.9"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    assert {"torch", "nas.train.run", "nas.search.study", "nas.rank.predictions"} <= loaded
    assert not SLOW & loaded
