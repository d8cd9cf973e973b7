"""Text in, arrays out: embeddings, class probabilities and answers of many texts, from a model and its tokenizer.

Texts are sorted by length and padded in batches, see `length_batches`; results come in the order of the texts and equal
those of calls of the model text by text, up to rounding.
"""

from jaxmodels.inference.answers import Answer, answer
from jaxmodels.inference.texts import classify, embed

__all__ = ["Answer", "answer", "classify", "embed"]
