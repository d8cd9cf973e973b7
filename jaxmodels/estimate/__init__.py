"""Ahead-of-time estimates for TPU slices: memory, FLOPs and time, by compiling for them; requires `libtpu`, no TPU."""

from jaxmodels.estimate.analysis import Collective
from jaxmodels.estimate.programs import forward, generate, topology_mesh, train_step
from jaxmodels.estimate.result import Estimate, Floor, Generation

__all__ = ["Collective", "Estimate", "Floor", "Generation", "forward", "generate", "topology_mesh", "train_step"]
