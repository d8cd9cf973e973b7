"""Text generation: a compiled decoding loop for decoder-only, encoder-decoder and RAG models."""

from jaxmodels.generation.api import generate, warmup
from jaxmodels.generation.config import GenerationConfig
from jaxmodels.generation.loop import explain_recompiles
from jaxmodels.generation.output import GenerateOutput, compute_transition_scores
from jaxmodels.generation.search import Text

__all__ = [
    "GenerateOutput",
    "GenerationConfig",
    "Text",
    "compute_transition_scores",
    "explain_recompiles",
    "generate",
    "warmup",
]
