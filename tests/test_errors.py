"""Errors are lines that a user can act on."""

import pickle

from nas.errors import CheckpointError, NasError


def test_an_error_is_one_line():
    assert str(NasError("key", "a\nb", "must hold", "do this")) == "key=a b: must hold; do this"


def test_an_error_comes_whole_out_of_another_process():
    error = pickle.loads(pickle.dumps(CheckpointError("run", "x", "is damaged", "take another")))
    assert type(error) is CheckpointError
    assert str(error) == "run=x: is damaged; take another"
    assert (error.key, error.value, error.rule, error.remedy) == ("run", "x", "is damaged", "take another")
