"""Small spaces for studies, objectives that are at odds, and a worker that evaluates, or dies."""

from nas.search import Search, search
from nas.settings import ChainSettings
from nas.space import build_space

CHAIN = {"widths": [4], "strides": [1], "candidates": ["skip", "conv1", "conv3"]}
SPACE = build_space(ChainSettings(depths=[3], **CHAIN))
"""27 architectures."""
BIG = build_space(ChainSettings(depths=[8], **CHAIN))
COSTS = {
    "flops": lambda architecture: 100 + 10 * sum(architecture),
    "parameters": lambda architecture: sum((2 - x) * (i + 1) for i, x in enumerate(architecture)),
}
"""They are at odds."""


def values_of(architecture):
    """Loss and FLOPs that are at odds, and an accuracy."""
    costs = {name: float(cost(architecture)) for name, cost in COSTS.items()}
    loss = costs["parameters"] / 10
    return {"loss": loss, "accuracy": 1 / (1 + loss), **costs}


def work(study, most=None):
    """Evaluate to the end, or ``most`` trials; returns the architectures in the order of evaluation."""
    done = []
    while not study.done() and len(done) != most:
        for trial in sorted(study.claim(), key=lambda t: t.architecture):
            if len(done) == most:
                return done
            study.tell(trial, values_of(trial.architecture), 0.01)
            done.append(trial.architecture)
    return done


def die(study):
    """What the kernel does for a process that is killed."""
    name = study._worker.name
    study.close()
    (study._worker._folder / name).touch()


def numbered(study):
    return [(t.number, t.architecture, t.values) for t in study.trials()]


def run(settings, folder):
    """A whole search; returns it and its outcome."""
    begun = Search(settings, folder)
    try:
        return begun, search(begun)
    finally:
        begun.study.close()
