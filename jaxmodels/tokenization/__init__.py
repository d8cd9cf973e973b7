"""Tokenizers of all model families, built on the `tokenizers` library.

`base` is the base class of all tokenizers, with the parts `decoding` and `special_tokens`. Each family's classes are in
one file (`byte_level`, `bert`, `dpr`, `t5`, `llama`) and registered in `loading.TOKENIZERS`; `generic` reads any other
tokenizer.json.
"""

from jaxmodels.tokenization.bert import BertTokenizer
from jaxmodels.tokenization.byte_level import BartTokenizer, GPT2Tokenizer, LEDTokenizer, RobertaTokenizer
from jaxmodels.tokenization.dpr import (
    DPRContextEncoderTokenizer,
    DPRQuestionEncoderTokenizer,
    DPRReaderTokenizer,
    DPRSpanPrediction,
)
from jaxmodels.tokenization.encoding import BatchEncoding, CharSpan, TokenSpan
from jaxmodels.tokenization.generic import GenericTokenizer
from jaxmodels.tokenization.llama import LlamaTokenizer
from jaxmodels.tokenization.loading import RagTokenizer, load_tokenizer
from jaxmodels.tokenization.t5 import T5Tokenizer

__all__ = [
    "BartTokenizer",
    "BatchEncoding",
    "BertTokenizer",
    "CharSpan",
    "DPRContextEncoderTokenizer",
    "DPRQuestionEncoderTokenizer",
    "DPRReaderTokenizer",
    "DPRSpanPrediction",
    "GPT2Tokenizer",
    "GenericTokenizer",
    "LEDTokenizer",
    "LlamaTokenizer",
    "RagTokenizer",
    "RobertaTokenizer",
    "T5Tokenizer",
    "TokenSpan",
    "load_tokenizer",
]
