"""From a batch of prompts to rows of the output."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import FrozenConfigDict

import jaxmodels as jm
from experiments.batch_generation.prompts import Prompt, has_global_tokens
from jaxmodels.architectures.base import Model
from jaxmodels.tokenization.base import Tokenizer


class Written(NamedTuple):
    """rows: a dict for each prompt. tokens: how many were generated for them."""

    rows: list[dict[str, Any]]
    tokens: int


class Writer:
    """A model with everything that `jm.generate` needs beside the prompts, the same for all batches.

    Attributes:
      settings: the checkpoint's with the job's options over them.
    """

    def __init__(self, model: Model, params: dict, tokenizer: Tokenizer, config: FrozenConfigDict):
        self._model, self._params, self._tokenizer = model, params, tokenizer
        self._rows, self._seed = config.batch_size, jax.random.key(config.seed)
        self._options = chosen(config)
        self._cache_dtype = None if config.cache_dtype is None else jnp.dtype(config.cache_dtype)
        self.settings = jm.GenerationConfig.merge(model.config, None, self._options)
        self.settings.check_vocabulary(model.config.vocab_size)
        if self.settings.pad_token_id is None and self.settings.eos_token_id:
            self._options["pad_token_id"] = self.settings.eos_token_id[0]
            self.settings = self.settings.replace(pad_token_id=self.settings.eos_token_id[0])

    def write(self, prompts: Sequence[Prompt], slots: int) -> Written:
        """Generates for up to batch_size prompts; slots: global tokens that every batch of the job has room for."""
        filled = [prompts[i % len(prompts)] for i in range(self._rows)]
        arrays = self._arrays(filled)
        if has_global_tokens(self._model):
            arrays["max_global_tokens"] = slots
        out = jm.generate(
            self._model,
            self._params,
            **arrays,
            key=_keys(self._seed, _numbers(filled)) if self.settings.do_sample else None,
            tokenizer=self._tokenizer,
            cache_dtype=self._cache_dtype,
            **self._options,
        )
        start = 1 if self._model.config.is_encoder_decoder else arrays["input_ids"].shape[1]
        each = self.settings.num_return_sequences
        new = np.asarray(out.sequences)[: len(prompts) * each, start:]
        texts = self._tokenizer.batch_decode(new, skip_special_tokens=True)
        scores = None if out.sequences_scores is None else np.asarray(out.sequences_scores).tolist()
        rows = []
        for number, prompt in enumerate(prompts):
            mine = slice(number * each, (number + 1) * each)
            row = {**prompt.line.fields, **_field("text", texts[mine])}
            rows.append(row | _field("score", scores[mine]) if scores else row)
        return Written(rows, self._count(new))

    def _arrays(self, prompts: Sequence[Prompt]) -> dict[str, np.ndarray]:
        width = max(len(prompt.ids) for prompt in prompts)
        pad = self.settings.pad_token_id
        pad = pad if pad is not None and pad >= 0 else 0
        ids, mask, wide = (np.full((len(prompts), width), fill, np.int32) for fill in (pad, 0, 0))
        for row, prompt in enumerate(prompts):
            length = len(prompt.ids)
            here = slice(length) if self._model.config.is_encoder_decoder else slice(width - length, width)
            ids[row, here], mask[row, here], wide[row, : prompt.wide] = prompt.ids, 1, 1
        arrays = {"input_ids": ids, "attention_mask": mask}
        return arrays | ({"global_attention_mask": wide} if has_global_tokens(self._model) else {})

    def _count(self, new: np.ndarray) -> int:
        """Tokens up to the first that ends or fills a row, with it."""
        ends = np.isin(new, [*self.settings.eos_token_id, self.settings.pad_token_id])
        return int(np.where(ends.any(axis=1), ends.argmax(axis=1) + 1, new.shape[1]).sum())


def chosen(config: FrozenConfigDict) -> dict[str, Any]:
    """The options that the config gives, without those that it leaves to the checkpoint.

    Raises:
      ValueError: an option that a batch job has no use for.
    """
    options = {name: value for name, value in config.generate.items() if value is not None}
    for name in options:
        if name.startswith("output_"):
            raise ValueError(
                f"generate.{name}: a batch job writes texts and scores only; call jm.generate for the rest"
            )
    if "max_time" in options:
        raise ValueError("generate.max_time: texts that the clock cuts off would not be the same after a restart")
    return options


def _field(name: str, values: list) -> dict[str, Any]:
    """One value under its name, several under the plural."""
    return {name: values[0]} if len(values) == 1 else {f"{name}s": values}


def _numbers(prompts: Sequence[Prompt]) -> np.ndarray:
    """A number of 64 bits for each id, as uint32 [B,2]."""
    digests = [hashlib.sha256(json.dumps(prompt.line.id).encode()).digest()[:8] for prompt in prompts]
    return np.frombuffer(b"".join(digests), "<u4").reshape(-1, 2)


@jax.jit
def _keys(seed: jax.Array, numbers: jax.Array) -> jax.Array:
    """A key for each line, from its id alone."""
    return jax.vmap(lambda pair: jax.random.fold_in(jax.random.fold_in(seed, pair[0]), pair[1]))(numbers)
