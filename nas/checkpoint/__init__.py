"""Checkpoints: the file, who may go on with it, and a supernet or a subnetwork out of one."""

from nas.checkpoint.file import KEPT, check_storable, load, load_newest, save, saved, versions
from nas.checkpoint.resume import Initial, check_same_run, comparable
from nas.checkpoint.subnetwork import calibrated, plain_network
from nas.checkpoint.trained import Trained, load_trained

__all__ = [
    "KEPT",
    "Initial",
    "Trained",
    "calibrated",
    "check_same_run",
    "check_storable",
    "comparable",
    "load",
    "load_newest",
    "load_trained",
    "plain_network",
    "save",
    "saved",
    "versions",
]
