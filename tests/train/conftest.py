"""Small runs for the tests of the training room."""

import pytest
from support.runs import RUNS, tiny

from nas.settings import TrainRunSettings


@pytest.fixture(params=RUNS)
def settings(request) -> TrainRunSettings:
    """Each kind of run in turn."""
    return tiny(RUNS[request.param])
