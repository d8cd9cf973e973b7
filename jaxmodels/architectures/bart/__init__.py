"""BART: RAG's generator, and what LED grew from."""

from jaxmodels.architectures.bart.config import BartConfig
from jaxmodels.architectures.bart.model import BartForConditionalGeneration, BartModel

__all__ = ["BartConfig", "BartForConditionalGeneration", "BartModel"]
