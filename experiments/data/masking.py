"""Masked language modelling (Devlin et al. 2018, section 3.1): examples and windows of text with masked tokens."""

import numpy as np

from jaxmodels.tokenization.base import Tokenizer

from .batches import IGNORE
from .bpe import token_id
from .buckets import Examples


class Masking:
    """The choice of tokens to predict, and what the model sees in their place."""

    def __init__(self, tokenizer: Tokenizer, rate: float):
        """Take the special tokens, which are never masked, from the tokenizer.

        Raises:
          ValueError: A rate outside (0, 1), or no mask token.
        """
        if not 0 < rate < 1:
            raise ValueError(f"masking.rate is between 0 and 1, got {rate}")
        self._rate, self._mask = rate, token_id(tokenizer, "mask")
        special = np.zeros(len(tokenizer), bool)
        special[tokenizer.all_special_ids] = True
        self._special, self._ordinary = special, np.flatnonzero(~special)

    def __call__(self, ids: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return inputs and labels [T].

        Of the tokens to predict, 80% are replaced by <mask>, 10% by a random ordinary token, and 10% are unchanged.
        """
        candidates = np.flatnonzero(~self._special[ids])
        # Rounded randomly, so that the mean share equals the rate; at least one, since an example needs a label.
        count = max(int(self._rate * len(candidates) + random.random()), 1)
        chosen = random.permutation(candidates)[:count]
        inputs, labels = ids.copy(), np.full(len(ids), IGNORE, np.int32)
        labels[chosen] = ids[chosen]
        draw = random.random(len(chosen))
        masked, replaced = chosen[draw < 0.8], chosen[(draw >= 0.8) & (draw < 0.9)]
        inputs[masked] = self._mask
        inputs[replaced] = random.choice(self._ordinary, len(replaced))
        return inputs, labels


class MaskedExamples:
    """Other examples with tokens masked, anew for each epoch, as `buckets.Examples`."""

    def __init__(self, examples: Examples, masking: Masking, seed: int):
        self._examples, self._masking, self._seed = examples, masking, seed
        self.lengths = examples.lengths

    def batch(self, indices: np.ndarray, length: int, epoch: int = 0) -> dict[str, np.ndarray]:
        """Return the batch of the examples with masked input_ids, and labels int32 [len(indices), length]."""
        fields = self._examples.batch(indices, length, epoch)
        fields["labels"] = np.full_like(fields["input_ids"], IGNORE)
        for row, index in enumerate(indices):
            part = slice(self.lengths[index])
            random = np.random.default_rng([self._seed, epoch, index])
            masked = self._masking(fields["input_ids"][row, part], random)
            fields["input_ids"][row, part], fields["labels"][row, part] = masked
        return fields


class MaskedWindows:
    """Windows <s> text </s> (BERT: [CLS] text [SEP]) of T tokens, some of them masked, as `buckets.Examples`.

    Windows extend over the ends of documents, with a </s> between documents (FULL-SENTENCES of Liu et al. 2019). The
    choice of tokens depends on the seed, the epoch and the index of the window: it differs between epochs, but not
    between a resumed and an uninterrupted run.
    """

    def __init__(self, tokens: np.ndarray, tokenizer: Tokenizer, *, length: int, rate: float, seed: int, rest: bool):
        """Create windows.

        Args:
          tokens: Token ids [n], with </s> before each document.
          tokenizer: Provides the special tokens: the ones of class and separation, of padding, and the mask.
          length: Window length T.
          rate: Share of the ordinary tokens that is predicted.
          seed: Random seed.
          rest: Include the last, shorter window.

        Raises:
          ValueError: Less than one window of tokens, or a rate outside (0, 1).
        """
        self.mask = Masking(tokenizer, rate)
        text_length = length - 2
        starts = np.arange(0, len(tokens), text_length)
        if not rest:
            starts = starts[starts + text_length <= len(tokens)]
        if not len(starts):
            raise ValueError(f"{len(tokens)} tokens do not fill one window of {length}; take more text")
        self._tokens, self._starts, self._text_length = tokens, starts, text_length
        self._seed = seed
        self._begin, self._end = token_id(tokenizer, "cls"), token_id(tokenizer, "sep")
        self._pad = token_id(tokenizer, "pad")
        self.lengths = np.minimum(starts + text_length, len(tokens)) - starts + 2

    def batch(self, indices: np.ndarray, length: int, epoch: int = 0) -> dict[str, np.ndarray]:
        """Return input_ids, attention_mask and labels, int32 [len(indices), length], padded on the right."""
        fields = {
            "input_ids": np.full((len(indices), length), self._pad, np.int32),
            "attention_mask": np.zeros((len(indices), length), np.int32),
            "labels": np.full((len(indices), length), IGNORE, np.int32),
        }
        for row, index in enumerate(indices):
            ids = self._window(index)
            inputs, labels = self.mask(ids, np.random.default_rng([self._seed, epoch, index]))
            fields["input_ids"][row, : len(ids)] = inputs
            fields["attention_mask"][row, : len(ids)] = 1
            fields["labels"][row, : len(ids)] = labels
        return fields

    def _window(self, index: int) -> np.ndarray:
        start = self._starts[index]
        text = self._tokens[start : start + self._text_length]
        return np.concatenate([[self._begin], text, [self._end]]).astype(np.int32)
