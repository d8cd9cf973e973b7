"""Runs of experiments that several tests of a file look at."""

import pytest
from support.experiment_runs import finish


@pytest.fixture(scope="module")
def undisturbed(start, tmp_path_factory):
    """The folder and the output of a run that nobody killed; the file says how one is started."""
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    return folder, finish(start(folder))
