"""JAX/Flax models: GPT-2, DPR, RoBERTa-PreLayerNorm, RAG, LED. `import jaxmodels as jm`."""

from jaxmodels import sharding
from jaxmodels.architectures.dpr import (
    DPRConfig,
    DPRContextEncoder,
    DPRContextEncoderOutput,
    DPRQuestionEncoder,
    DPRQuestionEncoderOutput,
    DPRReader,
    DPRReaderOutput,
)
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
from jaxmodels.architectures.roberta_prelayernorm import (
    RobertaPreLayerNormConfig,
    RobertaPreLayerNormForCausalLM,
    RobertaPreLayerNormForMaskedLM,
    RobertaPreLayerNormForMultipleChoice,
    RobertaPreLayerNormForQuestionAnswering,
    RobertaPreLayerNormForSequenceClassification,
    RobertaPreLayerNormForTokenClassification,
    RobertaPreLayerNormModel,
)
from jaxmodels.batching import LengthBatch, length_batches
from jaxmodels.convert import WeightsError
from jaxmodels.generation import GenerateOutput, generate
from jaxmodels.hub import load, save
from jaxmodels.initialise import init
from jaxmodels.surgery import prune_heads, resize_token_embeddings
from jaxmodels.tensor_files import TensorFileError
from jaxmodels.tokenization import (
    BatchEncoding,
    BertTokenizer,
    DPRContextEncoderTokenizer,
    DPRQuestionEncoderTokenizer,
    DPRReaderTokenizer,
    DPRSpanPrediction,
    GPT2Tokenizer,
    RobertaTokenizer,
    load_tokenizer,
)

__version__ = "0.1.0"

__all__ = [
    "BatchEncoding",
    "BertTokenizer",
    "DPRConfig",
    "DPRContextEncoder",
    "DPRContextEncoderOutput",
    "DPRContextEncoderTokenizer",
    "DPRQuestionEncoder",
    "DPRQuestionEncoderOutput",
    "DPRQuestionEncoderTokenizer",
    "DPRReader",
    "DPRReaderOutput",
    "DPRReaderTokenizer",
    "DPRSpanPrediction",
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
    "LengthBatch",
    "RobertaPreLayerNormConfig",
    "RobertaPreLayerNormForCausalLM",
    "RobertaPreLayerNormForMaskedLM",
    "RobertaPreLayerNormForMultipleChoice",
    "RobertaPreLayerNormForQuestionAnswering",
    "RobertaPreLayerNormForSequenceClassification",
    "RobertaPreLayerNormForTokenClassification",
    "RobertaPreLayerNormModel",
    "RobertaTokenizer",
    "TensorFileError",
    "WeightsError",
    "generate",
    "init",
    "length_batches",
    "load",
    "load_tokenizer",
    "prune_heads",
    "resize_token_embeddings",
    "save",
    "sharding",
]
