"""Checkpoints: the file, who may go on with it, and a supernet or a subnetwork out of one."""

from nas.checkpoint.agreement import agreed
from nas.checkpoint.file import KEPT, check_storable, load, load_newest, save, saved, versions
from nas.checkpoint.initial import Initial
from nas.checkpoint.resume import begin_with, comparable
from nas.checkpoint.subnetwork import calibrated, plain_network
from nas.checkpoint.trained import Trained, load_trained, must_be_trusted, settings_of

__all__ = [
    "KEPT",
    "Initial",
    "Trained",
    "agreed",
    "begin_with",
    "calibrated",
    "check_storable",
    "comparable",
    "load",
    "load_newest",
    "load_trained",
    "must_be_trusted",
    "plain_network",
    "save",
    "saved",
    "settings_of",
    "versions",
]
