"""Decoding: one compiled loop over a step function."""

from jaxmodels.generation.config import GenerationConfig
from jaxmodels.generation.generate import generate, warmup
from jaxmodels.generation.output import GenerateOutput, compute_transition_scores
from jaxmodels.generation.recompiles import explain_recompiles
from jaxmodels.generation.text import Text

__all__ = [
    "GenerateOutput",
    "GenerationConfig",
    "Text",
    "compute_transition_scores",
    "explain_recompiles",
    "generate",
    "warmup",
]
