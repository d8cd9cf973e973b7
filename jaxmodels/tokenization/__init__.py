"""Tokenizers of the five families, on the `tokenizers` library.

`base` is what they share, `byte_level` what GPT-2, RoBERTa, BART and LED share; a family is a file with its classes,
entered in `loading.TOKENIZERS`.
"""

from jaxmodels.tokenization.encoding import BatchEncoding, CharSpan, TokenSpan
from jaxmodels.tokenization.gpt2 import GPT2Tokenizer
from jaxmodels.tokenization.loading import load_tokenizer

__all__ = ["BatchEncoding", "CharSpan", "GPT2Tokenizer", "TokenSpan", "load_tokenizer"]
