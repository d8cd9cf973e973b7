"""A context encoder on the devices of this process: texts in, vectors out, as its index stores them."""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import FrozenConfigDict

import jaxmodels as jm
from jaxmodels.retrieval import fingerprint
from jaxmodels.retrieval.arguments import checked_rows
from jaxmodels.retrieval.rows import Stored, checked_dtype, stored
from jaxmodels.training import place

BUCKET = 32  # tokens are rounded up to multiples of this, and each length is compiled once
Tokens = dict[str, np.ndarray]


class Encoder:
    """DPR's context encoder with its tokenizer.

    Attributes:
      fingerprint: what the index is recognised by: the question encoder's where there is one, else this encoder's.
      width: of the vectors.
    """

    def __init__(self, config: FrozenConfigDict):
        self._rows, self._length, self._dtype = config.rows, config.length, checked_dtype(config.index_dtype)
        self._here = {"mesh": jm.sharding.make_mesh({"data": -1}, jax.local_devices()), "rules": jm.sharding.DP}
        kinds = {"dtype": config.dtype, "param_dtype": config.dtype}
        self._model, self._params = jm.load(config.encoder, cls=jm.DPRContextEncoder, **kinds, **self._here)
        self._tokenizer = jm.load_tokenizer(config.encoder, jm.DPRContextEncoderTokenizer)
        self.own = fingerprint(self._model, self._params)
        self.width = self._model.config.projection_dim or self._model.config.hidden_size
        self.fingerprint = self.own
        if config.question_encoder:
            self.fingerprint = fingerprint(*jm.load(config.question_encoder, cls=jm.DPRQuestionEncoder))

    def tokenize(self, passages: Sequence[tuple[str, str]]) -> Tokens:
        """[CLS] title [SEP] text [SEP], cut to the length of the config; for `encode`."""
        titles, texts = map(list, zip(*passages, strict=True))
        options = {"padding": "max_length", "truncation": True, "max_length": self._length}
        return dict(self._tokenizer(titles, texts, **options))

    def encode(self, tokens: Tokens, done: Callable[[int], object]) -> Stored:
        """The rows of an index for these passages; the same for the same passages, whatever came before.

        Args:
          done: called with how many passages are encoded, batch by batch.
        """
        vectors, waiting = np.empty((len(tokens["input_ids"]), self.width), np.float32), None
        for places, width in jm.length_batches(tokens["attention_mask"].sum(axis=1), self._rows, multiple=BUCKET):
            full = np.resize(places, self._rows)  # the last batch is filled up with its own rows
            batch = {name: array[full, : min(width, self._length)] for name, array in tokens.items()}
            with jm.sharding.use(**self._here):
                found = _vectors(self._model, self._params, place(batch, **self._here))
            # One batch is computed while the one before it is fetched.
            _fetch(vectors, waiting, done)
            waiting = places, found
        _fetch(vectors, waiting, done)
        return stored(checked_rows(vectors), self._dtype)


@partial(jax.jit, static_argnums=0)
def _vectors(model: jm.DPRContextEncoder, params: dict, batch: Tokens) -> jax.Array:
    return model.apply({"params": params}, **batch).pooler_output.astype(jnp.float32)


def _fetch(vectors: np.ndarray, waiting, done: Callable[[int], object]) -> None:
    if waiting is not None:
        places, found = waiting
        vectors[places] = np.asarray(found)[: len(places)]
        done(len(places))
