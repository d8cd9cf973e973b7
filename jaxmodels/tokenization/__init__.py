"""Tokenizers of the five families, and of BERT, BART and T5, which they stand on, on the `tokenizers` library.

`base` is what they share, `byte_level` what GPT-2, RoBERTa, BART and LED share, `wordpiece` what BERT and DPR share; a
family is a file with its classes, entered in `loading.TOKENIZERS`.
"""

from jaxmodels.tokenization.bart import BartTokenizer
from jaxmodels.tokenization.bert import BertTokenizer
from jaxmodels.tokenization.dpr import DPRContextEncoderTokenizer, DPRQuestionEncoderTokenizer, DPRReaderTokenizer
from jaxmodels.tokenization.encoding import BatchEncoding, CharSpan, TokenSpan
from jaxmodels.tokenization.gpt2 import GPT2Tokenizer
from jaxmodels.tokenization.led import LEDTokenizer
from jaxmodels.tokenization.loading import load_tokenizer
from jaxmodels.tokenization.rag import RagTokenizer
from jaxmodels.tokenization.roberta import RobertaTokenizer
from jaxmodels.tokenization.spans import DPRSpanPrediction
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
    "LEDTokenizer",
    "RagTokenizer",
    "RobertaTokenizer",
    "T5Tokenizer",
    "TokenSpan",
    "load_tokenizer",
]
