"""Experiment runs that several tests of a file use."""

import pytest
from support.experiment_runs import finish


@pytest.fixture(scope="module")
def uninterrupted(start, tmp_path_factory):
    """Folder and output of an uninterrupted run; each file defines its fixture `start`."""
    folder = tmp_path_factory.mktemp("runs") / "uninterrupted"
    return folder, finish(start(folder))
