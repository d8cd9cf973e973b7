"""Dense Passage Retrieval, and the BERT that it stands on."""

from jaxmodels.architectures.dpr.config import DPRConfig
from jaxmodels.architectures.dpr.model import (
    DPRContextEncoder,
    DPRContextEncoderOutput,
    DPRQuestionEncoder,
    DPRQuestionEncoderOutput,
    DPRReader,
    DPRReaderOutput,
)

__all__ = [
    "DPRConfig",
    "DPRContextEncoder",
    "DPRContextEncoderOutput",
    "DPRQuestionEncoder",
    "DPRQuestionEncoderOutput",
    "DPRReader",
    "DPRReaderOutput",
]
