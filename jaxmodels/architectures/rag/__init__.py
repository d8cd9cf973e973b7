"""RAG, retrieval-augmented generation."""

from jaxmodels.architectures.rag.config import RagConfig
from jaxmodels.architectures.rag.model import (
    RagModel,
    RagPreTrainedModel,
    RagSequenceForGeneration,
    RagTokenForGeneration,
)
from jaxmodels.architectures.rag.outputs import RetrievAugLMMarginOutput, RetrievAugLMOutput

__all__ = [
    "RagConfig",
    "RagModel",
    "RagPreTrainedModel",
    "RagSequenceForGeneration",
    "RagTokenForGeneration",
    "RetrievAugLMMarginOutput",
    "RetrievAugLMOutput",
]
