"""Tokenizers of the five families, on the `tokenizers` library.

`base` is what they share, `byte_level` what GPT-2, RoBERTa, BART and LED share, `wordpiece` what BERT and DPR share; a
family is a file with its classes, entered in `loading.TOKENIZERS`.
"""

from jaxmodels.tokenization.bert import BertTokenizer
from jaxmodels.tokenization.dpr import DPRContextEncoderTokenizer, DPRQuestionEncoderTokenizer, DPRReaderTokenizer
from jaxmodels.tokenization.encoding import BatchEncoding, CharSpan, TokenSpan
from jaxmodels.tokenization.gpt2 import GPT2Tokenizer
from jaxmodels.tokenization.loading import load_tokenizer
from jaxmodels.tokenization.roberta import RobertaTokenizer
from jaxmodels.tokenization.spans import DPRSpanPrediction

__all__ = [
    "BatchEncoding",
    "BertTokenizer",
    "CharSpan",
    "DPRContextEncoderTokenizer",
    "DPRQuestionEncoderTokenizer",
    "DPRReaderTokenizer",
    "DPRSpanPrediction",
    "GPT2Tokenizer",
    "RobertaTokenizer",
    "TokenSpan",
    "load_tokenizer",
]
