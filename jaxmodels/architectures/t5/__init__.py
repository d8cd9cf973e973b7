"""T5."""

from jaxmodels.architectures.t5.config import T5Config
from jaxmodels.architectures.t5.model import T5ForConditionalGeneration, T5Model

__all__ = ["T5Config", "T5ForConditionalGeneration", "T5Model"]
