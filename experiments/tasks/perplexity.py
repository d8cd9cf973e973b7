"""Perplexity of causal and pseudo-perplexity of masked language models on a column of texts."""

import math
import re
from itertools import chain
from typing import Any

import numpy as np
from ml_collections import FrozenConfigDict

import jaxmodels as jm
from jaxmodels.architectures import AUTO
from jaxmodels.config import Config
from jaxmodels.inference.likelihood import Window, causal_windows, log_likelihoods, masked_windows
from jaxmodels.tokenization.base import Tokenizer

from ..data import tables
from ..data.bpe import token_id
from ..loop import mesh_and_rules
from .common import Scores


def perplexity(config: FrozenConfigDict, *, progress: bool) -> tuple[Scores, int]:
    """Score a checkpoint on texts, each on its own.

    A causal language model predicts every token of a text after its first special token (bos, else eos), in sliding
    windows. Perplexity is per token, word (separated by spaces, as in EleutherAI's lm-eval) and byte of UTF-8. A masked
    language model predicts each token from all others of its window (Salazar et al. 2020, arXiv:1910.14659).

    Args:
      config: See configs/evaluate.py; with `init`, and `data.test`.
      progress: Show a progress bar.

    Returns:
      The scores, and the number of texts.

    Raises:
      ValueError: A model that is no language model, or no text.
    """
    texts = tables.read(config.data.test, config.columns).texts("text")
    checkpoint = jm.load_config(config.init)
    cls = language_model(checkpoint)
    tokenizer = jm.load_tokenizer(config.init, model_max_length=None)
    length = min(config.max_tokens, checkpoint.max_source_tokens)
    if length < 1 or config.stride < 0:
        raise ValueError(f"max_tokens is at least 1 and stride at least 0; got {config.max_tokens} and {config.stride}")
    causal = cls == "AutoModelForCausalLM"
    make = _causal if causal else _masked
    windows = list(chain.from_iterable(make(text, tokenizer, length, config.stride or length) for text in texts))
    if not windows:
        raise ValueError(f"{config.data.test} has no text")
    sharding = mesh_and_rules(config)
    model, params = jm.load(config.init, cls=cls, dtype=config.dtype, param_dtype="float32", **sharding)
    with jm.sharding.use(**sharding):
        found = log_likelihoods(
            model,
            params,
            windows,
            pad_token_id=tokenizer.pad_token_id,
            batch_size=config.batch_size,
            progress=progress,
        )
    values = np.concatenate([each.log_likelihoods for each in found]).astype(np.float64)
    greedy = np.concatenate([each.greedy for each in found])
    scores = {"loss": -float(values.mean()), "accuracy": float(greedy.mean())}
    if not causal:
        return {"pseudo-perplexity": _exp(scores["loss"])} | scores, len(texts)
    nats = -float(values.sum())
    words = sum(len(re.split(r"\s+", text)) for text in texts)
    size = sum(len(text.encode()) for text in texts)
    normalised = {"per word": _exp(nats / words), "per byte": _exp(nats / size)}
    return {
        "perplexity": _exp(scores["loss"]),
        **{f"perplexity {unit}": value for unit, value in normalised.items()},
        "bits per byte": nats / size / math.log(2),
        **scores,
    }, len(texts)


def language_model(checkpoint: Config) -> str:
    """Return the auto class of a checkpoint: for masked language models, unless they are decoders or have none.

    Raises:
      ValueError: An encoder-decoder, or a family without a language model.
    """
    kind = checkpoint.model_type
    if not checkpoint.is_encoder_decoder:
        if kind in AUTO["AutoModelForMaskedLM"] and not checkpoint.is_decoder:
            return "AutoModelForMaskedLM"
        if kind in AUTO["AutoModelForCausalLM"]:
            return "AutoModelForCausalLM"
    raise ValueError(
        f"perplexity is of causal and masked language models, and a {kind} is neither; evaluate text_to_text gives the "
        "loss of an encoder-decoder"
    )


def _causal(text: str, tokenizer: Tokenizer, length: int, stride: int) -> Any:
    start = token_id(tokenizer, "eos" if tokenizer.bos_token_id is None else "bos")
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    return causal_windows([start, *ids], length=length, stride=stride)


def _masked(text: str, tokenizer: Tokenizer, length: int, _stride: int) -> list[Window]:
    encoded = tokenizer(
        [text],
        truncation=True,
        max_length=length,
        return_overflowing_tokens=True,
        return_special_tokens_mask=True,
    )
    mask = token_id(tokenizer, "mask")
    rows = zip(encoded["input_ids"], encoded["special_tokens_mask"], strict=True)
    return [window for ids, special in rows for window in masked_windows(ids, special, mask_token_id=mask)]


def _exp(loss: float) -> float:
    return math.exp(min(loss, 700.0))
