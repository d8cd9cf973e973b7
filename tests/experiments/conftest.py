"""Experiment runs that several tests of a file use."""

import jax
import pytest
from support.experiment_runs import finish

import jaxmodels as jm
from experiments.tasks import run as task_run


@pytest.fixture(scope="module")
def uninterrupted(start, tmp_path_factory):
    """Folder and output of an uninterrupted run; each file defines its fixture `start`."""
    folder = tmp_path_factory.mktemp("runs") / "uninterrupted"
    return folder, finish(start(folder))


@pytest.fixture(scope="module")
def one_device():
    """Runs in this process use one of the eight devices, since they are tiny."""
    with pytest.MonkeyPatch.context() as patch:
        mesh = jm.sharding.make_mesh({"data": 1}, jax.devices()[:1])
        patch.setattr(task_run, "mesh_and_rules", lambda _: {"mesh": mesh, "rules": jm.sharding.DP})
        yield
