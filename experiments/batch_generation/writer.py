"""Generate the output rows for batches of prompts."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import FrozenConfigDict

import jaxmodels as jm
from jaxmodels.architectures.base import Model
from jaxmodels.tokenization.base import Tokenizer

from .prompts import Prompt, has_global_tokens


class GeneratedBatch(NamedTuple):
    """Generated texts of a batch.

    Attributes:
      rows: One output row per prompt.
      tokens: Number of generated tokens.
    """

    rows: list[dict[str, Any]]
    tokens: int


class BatchGenerator:
    """A model with all arguments of `jm.generate` that are the same for all batches.

    Attributes:
      settings: Generation settings of the checkpoint, overridden by the options of the job.
    """

    def __init__(self, model: Model, params: dict, tokenizer: Tokenizer, config: FrozenConfigDict):
        self._model, self._params, self._tokenizer = model, params, tokenizer
        self._batch_size, self._seed = config.batch_size, jax.random.key(config.seed)
        self._options = generate_options(config)
        self._cache_dtype = None if config.cache_dtype is None else jnp.dtype(config.cache_dtype)
        self.settings = jm.GenerationConfig.merge(model.config, None, self._options)
        self.settings.check_vocabulary(model.config.vocab_size)
        if self.settings.pad_token_id is None and self.settings.eos_token_id:
            self._options["pad_token_id"] = self.settings.eos_token_id[0]
            self.settings = self.settings.replace(pad_token_id=self.settings.eos_token_id[0])

    def generate(self, prompts: Sequence[Prompt], max_global_tokens: int) -> GeneratedBatch:
        """Generate texts.

        Args:
          prompts: At most batch_size prompts; they are repeated to fill the batch.
          max_global_tokens: The largest number of global tokens of all prompts of the job.
        """
        filled = [prompts[i % len(prompts)] for i in range(self._batch_size)]
        arrays: dict[str, Any] = {**self._arrays(filled), "tokenizer": self._tokenizer}
        if has_global_tokens(self._model):
            arrays["max_global_tokens"] = max_global_tokens
        out = jm.generate(
            self._model,
            self._params,
            **arrays,
            key=_keys(self._seed, _id_hashes(filled)) if self.settings.do_sample else None,
            cache_dtype=self._cache_dtype,
            **self._options,
        )
        start = 1 if self._model.config.is_encoder_decoder else arrays["input_ids"].shape[1]
        per_prompt = self.settings.num_return_sequences
        new = np.asarray(out.sequences)[: len(prompts) * per_prompt, start:]
        texts = self._tokenizer.batch_decode(new, skip_special_tokens=True)
        scores = None if out.sequences_scores is None else np.asarray(out.sequences_scores).tolist()
        rows = []
        for number, prompt in enumerate(prompts):
            sequences = slice(number * per_prompt, (number + 1) * per_prompt)
            row = {**prompt.line.fields, **_field("text", texts[sequences])}
            rows.append(row | _field("score", scores[sequences]) if scores else row)
        return GeneratedBatch(rows, self._count(new))

    def _arrays(self, prompts: Sequence[Prompt]) -> dict[str, np.ndarray]:
        width = max(len(prompt.ids) for prompt in prompts)
        pad = self.settings.pad_token_id
        pad = pad if pad is not None and pad >= 0 else 0
        ids, mask, global_mask = (np.full((len(prompts), width), fill, np.int32) for fill in (pad, 0, 0))
        for row, prompt in enumerate(prompts):
            length = len(prompt.ids)
            columns = slice(length) if self._model.config.is_encoder_decoder else slice(width - length, width)
            ids[row, columns], mask[row, columns], global_mask[row, : prompt.num_global] = prompt.ids, 1, 1
        arrays = {"input_ids": ids, "attention_mask": mask}
        return arrays | ({"global_attention_mask": global_mask} if has_global_tokens(self._model) else {})

    def _count(self, new: np.ndarray) -> int:
        """Return the number of tokens up to and including the first EOS or padding token of each sequence."""
        ids = [i for i in (*self.settings.eos_token_id, self.settings.pad_token_id) if i is not None]
        ends = np.isin(new, ids)
        return int(np.where(ends.any(axis=1), ends.argmax(axis=1) + 1, new.shape[1]).sum())


def generate_options(config: FrozenConfigDict) -> dict[str, Any]:
    """Return the options of `jm.generate` that the config sets; the others are left to the checkpoint.

    Raises:
      ValueError: An option that batch jobs do not support.
    """
    options = {name: value for name, value in config.generate.items() if value is not None}
    for name in options:
        if name.startswith("output_"):
            raise ValueError(
                f"generate.{name}: a batch job only writes texts and scores; call jm.generate for other outputs"
            )
    if "max_time" in options:
        raise ValueError("generate.max_time: texts that are cut off after some time would differ after a restart")
    return options


def _field(name: str, values: list) -> dict[str, Any]:
    """Return a field with one value, or with the plural name and several values."""
    return {name: values[0]} if len(values) == 1 else {f"{name}s": values}


def _id_hashes(prompts: Sequence[Prompt]) -> np.ndarray:
    """Return a 64-bit hash of each id, as uint32 [B,2]."""
    digests = [hashlib.sha256(json.dumps(prompt.line.id).encode()).digest()[:8] for prompt in prompts]
    return np.frombuffer(b"".join(digests), "<u4").reshape(-1, 2)


@jax.jit
def _keys(seed: jax.Array, hashes: jax.Array) -> jax.Array:
    """Return a random key for each line, which depends on its id only."""
    return jax.vmap(lambda pair: jax.random.fold_in(jax.random.fold_in(seed, pair[0]), pair[1]))(hashes)
