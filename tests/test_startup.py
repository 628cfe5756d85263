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
from nas.cli import score, search, train
train.main()
sys.argv[1:] = "data=digits", "architectures=1", "proxies=[naswot]", "threads=1", "run=tiny"
score.main()
import nas.export, nas.rank, nas.search
nas.search.Evaluator.__call__ = lambda *_: sys.exit(print(*sys.modules, file=sys.stderr))
sys.argv[1:] = "checkpoint=outputs/train/tiny", "search.sampler=random", "search.objectives=[loss,parameters]"
sys.argv += "search.threads=1", "search.trials=2"
search.main()
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


def test_commands_import_only_what_they_use(tmp_path):
    """A training and a scoring to their ends, a search up to its first evaluation."""
    environment = os.environ | {"PYTHONPATH": str(Path(nas.__file__).parents[1])}
    command = [sys.executable, "-c", RUN, *WORDS, "optimizer=adamw", "gate=learned", "train.ema_decay=0.9"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    assert {"torch", "nas.train.run", "nas.search.study", "nas.score.scoring", "nas.rank.predictions"} <= loaded
    assert not SLOW & loaded
