"""JAX/Flax models: GPT-2, DPR, RoBERTa-PreLayerNorm, RAG, LED. `import jaxmodels as jm`."""

from jaxmodels import sharding
from jaxmodels.architectures.bart import BartConfig, BartForConditionalGeneration, BartModel
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
from jaxmodels.architectures.led import (
    LEDConfig,
    LEDEncoderBaseModelOutput,
    LEDForConditionalGeneration,
    LEDForQuestionAnswering,
    LEDForSequenceClassification,
    LEDModel,
    LEDSeq2SeqLMOutput,
    LEDSeq2SeqModelOutput,
    LEDSeq2SeqQuestionAnsweringModelOutput,
    LEDSeq2SeqSequenceClassifierOutput,
    led_from_bart,
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
from jaxmodels.architectures.t5 import T5Config, T5ForConditionalGeneration, T5Model
from jaxmodels.batching import LengthBatch, length_batches
from jaxmodels.convert import WeightsError
from jaxmodels.generation import GenerateOutput, generate
from jaxmodels.hub import load, save
from jaxmodels.initialise import init
from jaxmodels.surgery import prune_heads, resize_token_embeddings
from jaxmodels.tensor_files import TensorFileError
from jaxmodels.tokenization import (
    BartTokenizer,
    BatchEncoding,
    BertTokenizer,
    DPRContextEncoderTokenizer,
    DPRQuestionEncoderTokenizer,
    DPRReaderTokenizer,
    DPRSpanPrediction,
    GPT2Tokenizer,
    LEDTokenizer,
    RobertaTokenizer,
    T5Tokenizer,
    load_tokenizer,
)

__version__ = "0.1.0"

__all__ = [
    "BartConfig",
    "BartForConditionalGeneration",
    "BartModel",
    "BartTokenizer",
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
    "LEDConfig",
    "LEDEncoderBaseModelOutput",
    "LEDForConditionalGeneration",
    "LEDForQuestionAnswering",
    "LEDForSequenceClassification",
    "LEDModel",
    "LEDSeq2SeqLMOutput",
    "LEDSeq2SeqModelOutput",
    "LEDSeq2SeqQuestionAnsweringModelOutput",
    "LEDSeq2SeqSequenceClassifierOutput",
    "LEDTokenizer",
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
    "T5Config",
    "T5ForConditionalGeneration",
    "T5Model",
    "T5Tokenizer",
    "TensorFileError",
    "WeightsError",
    "generate",
    "init",
    "led_from_bart",
    "length_batches",
    "load",
    "load_tokenizer",
    "prune_heads",
    "resize_token_embeddings",
    "save",
    "sharding",
]
