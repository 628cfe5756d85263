"""Training a supernet: the loop, its step, evaluation and checkpoints."""

from nas.train.alone import train_alone
from nas.train.evaluate import Judgement, architectures_to_judge, judge
from nas.train.loop import fit
from nas.train.optimize import GatedOptimizer, learning_rate
from nas.train.picked import best_of_run, calibrated, plain_network
from nas.train.report import Report, make_report, tables
from nas.train.retraining import Retraining, comparison, retrain
from nas.train.run import Initial, Run
from nas.train.step import BranchNorms, GateTeacher, Loss, StepResult, train_step
from nas.train.trained import Trained, load_trained

__all__ = [
    "BranchNorms",
    "GateTeacher",
    "GatedOptimizer",
    "Initial",
    "Judgement",
    "Loss",
    "Report",
    "Retraining",
    "Run",
    "StepResult",
    "Trained",
    "architectures_to_judge",
    "best_of_run",
    "calibrated",
    "comparison",
    "fit",
    "judge",
    "learning_rate",
    "load_trained",
    "make_report",
    "plain_network",
    "retrain",
    "tables",
    "train_alone",
    "train_step",
]
