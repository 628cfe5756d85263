"""Training a supernet: the loop, its step, evaluation and what comes of a run."""

from nas.train.alone.retraining import Retraining, comparison, retrain
from nas.train.alone.scratch import train_from_scratch
from nas.train.evaluation.subnetworks import EvalResult, architectures_to_evaluate, evaluate
from nas.train.gate_trainer import GateTrainer
from nas.train.loop import fit
from nas.train.report import Report, best_of_run, make_report, tables
from nas.train.result import Figures, StepResult, read_steps
from nas.train.run import Run
from nas.train.schedule import learning_rate
from nas.train.step import BranchNorms, Loss, TrainStep
from nas.train.update.optimize import GatedOptimizer

__all__ = [
    "BranchNorms",
    "EvalResult",
    "Figures",
    "GateTrainer",
    "GatedOptimizer",
    "Loss",
    "Report",
    "Retraining",
    "Run",
    "StepResult",
    "TrainStep",
    "architectures_to_evaluate",
    "best_of_run",
    "comparison",
    "evaluate",
    "fit",
    "learning_rate",
    "make_report",
    "read_steps",
    "retrain",
    "tables",
    "train_from_scratch",
]
