"""Masked language modelling (Devlin et al. 2018, section 3.1): windows of text in which words are hidden."""

import numpy as np

import jaxmodels as jm
from experiments.data.batches import IGNORE


class MaskedWindows:
    """Windows <s> text </s> of T tokens, of which a share is hidden; as examples for `buckets`.

    The text runs on over the ends of documents, with a </s> between two (FULL-SENTENCES of Liu et al. 2019). What is
    hidden is a function of the seed, the epoch and the window's number: other words in every epoch, the same ones in a
    run that was killed and goes on.
    """

    def __init__(
        self, tokens: np.ndarray, tokenizer: jm.RobertaTokenizer, *, length: int, rate: float, seed: int, rest: bool
    ):
        """Takes the tokens window by window.

        Args:
          tokens: [n], </s> before each document.
          length: T. rate: share of the ordinary tokens that is predicted.
          rest: keep the last window too, which is shorter.

        Raises:
          ValueError: less than one window of tokens, or a rate outside (0, 1).
        """
        if not 0 < rate < 1:
            raise ValueError(f"masking.rate is between 0 and 1, got {rate}")
        text = length - 2
        starts = np.arange(0, len(tokens), text)
        if not rest:
            starts = starts[starts + text <= len(tokens)]
        if not len(starts):
            raise ValueError(f"{len(tokens)} tokens do not fill one window of {length}; take more text")
        self._tokens, self._starts, self._text = tokens, starts, text
        self._tokenizer, self._rate, self._seed = tokenizer, rate, seed
        special = np.zeros(len(tokenizer), bool)
        special[tokenizer.all_special_ids] = True
        self._special, self._ordinary = special, np.flatnonzero(~special)
        self.lengths = np.minimum(starts + text, len(tokens)) - starts + 2

    def batch(self, indices: np.ndarray, length: int, epoch: int = 0) -> dict[str, np.ndarray]:
        """input_ids, attention_mask, labels: int32 [len(indices), length], padded on the right."""
        fields = {
            "input_ids": np.full((len(indices), length), self._tokenizer.pad_token_id, np.int32),
            "attention_mask": np.zeros((len(indices), length), np.int32),
            "labels": np.full((len(indices), length), IGNORE, np.int32),
        }
        for row, index in enumerate(indices):
            ids = self._window(index)
            inputs, labels = self.hide(ids, np.random.default_rng([self._seed, epoch, index]))
            fields["input_ids"][row, : len(ids)] = inputs
            fields["attention_mask"][row, : len(ids)] = 1
            fields["labels"][row, : len(ids)] = labels
        return fields

    def hide(self, ids: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and labels of one window, [T]. Special tokens are never hidden.

        Of the tokens to be predicted 80% are replaced by <mask>, 10% by any ordinary token, and 10% are left.
        """
        candidates = np.flatnonzero(~self._special[ids])
        # Rounded at random, so that the share is the rate on average. At least one, or a row would have no loss.
        count = max(int(self._rate * len(candidates) + random.random()), 1)
        chosen = random.permutation(candidates)[:count]
        inputs, labels = ids.copy(), np.full(len(ids), IGNORE, np.int32)
        labels[chosen] = ids[chosen]
        kind = random.random(len(chosen))
        masked, other = chosen[kind < 0.8], chosen[(kind >= 0.8) & (kind < 0.9)]
        inputs[masked] = self._tokenizer.mask_token_id
        inputs[other] = random.choice(self._ordinary, len(other))
        return inputs, labels

    def _window(self, index: int) -> np.ndarray:
        start = self._starts[index]
        text = self._tokens[start : start + self._text]
        return np.concatenate([[self._tokenizer.bos_token_id], text, [self._tokenizer.eos_token_id]]).astype(np.int32)
