"""What a program will need on a TPU slice, found by really compiling for it; no TPU is needed, only `libtpu`."""

from jaxmodels.estimate.collectives import Collective
from jaxmodels.estimate.programs import forward, generate, train_step
from jaxmodels.estimate.result import Estimate, Floor, Generation
from jaxmodels.estimate.slices import topology_mesh

__all__ = ["Collective", "Estimate", "Floor", "Generation", "forward", "generate", "topology_mesh", "train_step"]
