"""Pretraining of encoder-decoders on a column of texts: spans of T5, noise of BART."""

from itertools import chain

import numpy as np

from jaxmodels.tokenization.base import Tokenizer

from ..data.denoising import Denoising, NoisedTexts, SpanCorruption
from .language_modelling import TokenPrediction, bare, cut


class SpanCorruptionTask(TokenPrediction):
    """Texts follow each other in windows whose inputs have max_tokens; the last, shorter window is one more."""

    model_class = "AutoModelForSeq2SeqLM"
    usage = 'jm.generate(model, params, jm.Text(tokenizer, ["A text with <extra_id_0> lost."]), max_new_tokens=20)'

    def encode(self, split: str, tokenizer: Tokenizer) -> NoisedTexts:
        noise = SpanCorruption(tokenizer, self.config.noise_density, self.config.mean_span)
        length = noise.text_length(self.max_tokens)
        tokens = list(chain.from_iterable(bare(tokenizer, self.tables[split].texts("text"))))
        # A token alone has no context.
        windows = [np.array(window, np.int32) for window in cut(tokens, length) if len(window) > 1]
        lengths = [noise.input_length(len(window)) for window in windows]
        return _noised(self, split, windows, noise, lengths, noise.target_length(length))


class DenoisingTask(TokenPrediction):
    """Each text is an example, one of more than max_tokens in several pieces."""

    model_class = "AutoModelForSeq2SeqLM"
    usage = 'jm.generate(model, params, jm.Text(tokenizer, ["A text with <mask> lost."]), max_new_tokens=20)'

    def encode(self, split: str, tokenizer: Tokenizer) -> NoisedTexts:
        config = self.config
        noise = Denoising(tokenizer, config.mask_rate, config.mean_span, config.permute_sentences)
        rows = bare(tokenizer, self.tables[split].texts("text"))
        pieces = [np.array(piece, np.int32) for row in rows for piece in cut(row, self.max_tokens - 2)]
        return _noised(self, split, pieces, noise, [len(piece) + 2 for piece in pieces], self.max_tokens)


def _noised(
    task: TokenPrediction,
    split: str,
    pieces: list[np.ndarray],
    noise: SpanCorruption | Denoising,
    lengths: list[int],
    target: int,
) -> NoisedTexts:
    if not pieces:
        raise ValueError(f"{task.tables[split].source} has no text")
    seed = task.config.seed if split == "train" else 0
    return NoisedTexts(pieces, noise, lengths, pad=task.config_fields["pad_token_id"], target=target, seed=seed)
