"""JAX/Flax models: GPT-2, DPR, RoBERTa-PreLayerNorm, RAG, LED. `import jaxmodels as jm`."""

from jaxmodels import sharding
from jaxmodels.architectures.gpt2 import (
    GPT2Config,
    GPT2DoubleHeadsModel,
    GPT2DoubleHeadsModelOutput,
    GPT2ForQuestionAnswering,
    GPT2ForSequenceClassification,
    GPT2ForTokenClassification,
    GPT2LMHeadModel,
    GPT2Model,
)
from jaxmodels.convert import WeightsError
from jaxmodels.generation import GenerateOutput, generate
from jaxmodels.hub import load, save
from jaxmodels.initialise import init
from jaxmodels.surgery import prune_heads, resize_token_embeddings
from jaxmodels.tensor_files import TensorFileError
from jaxmodels.tokenization import BatchEncoding, GPT2Tokenizer, load_tokenizer

__version__ = "0.1.0"

__all__ = [
    "BatchEncoding",
    "GPT2Config",
    "GPT2DoubleHeadsModel",
    "GPT2DoubleHeadsModelOutput",
    "GPT2ForQuestionAnswering",
    "GPT2ForSequenceClassification",
    "GPT2ForTokenClassification",
    "GPT2LMHeadModel",
    "GPT2Model",
    "GPT2Tokenizer",
    "GenerateOutput",
    "TensorFileError",
    "WeightsError",
    "generate",
    "init",
    "load",
    "load_tokenizer",
    "prune_heads",
    "resize_token_embeddings",
    "save",
    "sharding",
]
