"""Ahead-of-time estimates for TPU slices: memory, FLOPs and time, by compiling for them; requires `libtpu`, no TPU."""

from jaxmodels.estimate.analysis import Collective
from jaxmodels.estimate.programs import forward, generate, topology_mesh, train_step
from jaxmodels.estimate.result import Estimate, Floor, Generation
from jaxmodels.estimate.sharding_search import Candidate, search

__all__ = ["Candidate", "Collective", "Estimate", "Floor", "Generation"]
__all__ += ["forward", "generate", "search", "topology_mesh", "train_step"]
