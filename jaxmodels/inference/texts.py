"""Embeddings and class probabilities of texts."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.architectures.base import Model
from jaxmodels.inference.batches import run, tokenize
from jaxmodels.messages import brief
from jaxmodels.tokenization.base import Tokenizer

Pooling: TypeAlias = Literal["mean", "cls", "max", "last", "pooler"]


def embed(
    model: Model,
    params: Mapping[str, Any],
    tokenizer: Tokenizer,
    texts: Sequence[str],
    text_pairs: Sequence[str] | None = None,
    *,
    pooling: Pooling | None = None,
    normalize: bool = False,
    batch_size: int = 32,
    max_length: int | None = None,
    progress: bool = False,
) -> np.ndarray:
    """One vector for each text.

    Args:
      model: a model without a head (`jm.load(..., cls="AutoModel")`), an encoder of DPR, or an encoder-decoder, whose
        encoder is run.
      params: its parameters.
      tokenizer: its tokenizer.
      texts: N texts.
      text_pairs: N second texts, such as the texts of passages whose titles come first.
      pooling: "mean", "max" or "last" over the tokens of a text, "cls" for the first one, "pooler" for the model's own
        vector (`pooler_output`). None: "pooler" for DPR, else "mean".
      normalize: divide the vectors by their length, for cosine similarity.
      batch_size: texts that are computed at a time.
      max_length: number of tokens beyond which texts are cut; None: as many as the model and the tokenizer allow.
      progress: show a progress bar on standard error.

    Returns:
      float32 [N,D].

    Raises:
      TypeError: texts that are no sequence of str.
      ValueError: an unknown pooling, or one that the model's output has no array for.

    Examples:
      >>> model, params = jm.load("google-bert/bert-base-uncased", cls="AutoModel")
      >>> tok = jm.load_tokenizer("google-bert/bert-base-uncased")
      >>> vectors = jm.embed(model, params, tok, ["a cat", "a kitten", "a tax form"], normalize=True)
      >>> (vectors @ vectors.T).shape  # cosine similarities
      (3, 3)
    """
    if pooling is not None and pooling not in get_args(Pooling):
        raise ValueError(f"pooling is one of {', '.join(get_args(Pooling))}, or None, got {brief(pooling)}")
    fields = tokenize(model, tokenizer, texts, text_pairs, max_length)
    function = partial(_pooled, model, pooling, normalize)
    vectors = run(
        function,
        params,
        fields,
        pad_token_id=tokenizer.pad_token_id,
        longest=model.max_source_tokens,
        batch_size=batch_size,
        progress=progress,
    )
    return np.stack(vectors) if vectors else np.zeros((0, model.config.hidden_size), np.float32)


def classify(
    model: Model,
    params: Mapping[str, Any],
    tokenizer: Tokenizer,
    texts: Sequence[str],
    text_pairs: Sequence[str] | None = None,
    *,
    batch_size: int = 32,
    max_length: int | None = None,
    progress: bool = False,
) -> np.ndarray:
    """The probability of each label for each text; `model.config.id2label` has the names.

    Args:
      model: a model with a head for sequence classification.
      params, tokenizer, texts, text_pairs, batch_size, max_length, progress: as in `embed`.

    Returns:
      float32 [N,num_labels]: a softmax over the labels; a sigmoid of each where the config's problem_type is
      "multi_label_classification"; the values themselves of a regression (one label, or that problem_type).

    Raises:
      TypeError: texts that are no sequence of str.
      ValueError: a model without such a head.

    Examples:
      >>> model, params = jm.load(
      ...     "FacebookAI/roberta-base", cls=jm.RobertaForSequenceClassification, num_labels=2, key=jax.random.key(0)
      ... )
      >>> tok = jm.load_tokenizer("FacebookAI/roberta-base")
      >>> jm.classify(model, params, tok, ["a fine film", "dull and long", "never again"]).shape
      (3, 2)
    """
    if not type(model).__name__.endswith("ForSequenceClassification"):
        raise ValueError(
            f"classify takes a model for sequence classification, got a {type(model).__name__}; load it with "
            'cls="AutoModelForSequenceClassification"'
        )
    fields = tokenize(model, tokenizer, texts, text_pairs, max_length)
    found = run(
        partial(_probabilities, model),
        params,
        fields,
        pad_token_id=tokenizer.pad_token_id,
        longest=model.max_source_tokens,
        batch_size=batch_size,
        progress=progress,
    )
    return np.stack(found) if found else np.zeros((0, model.config.num_labels or 0), np.float32)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _pooled(
    model: Model, pooling: Pooling | None, normalize: bool, params: Mapping[str, Any], batch: Mapping[str, jax.Array]
) -> jax.Array:
    """float32 [B,D]."""
    method = "encode" if model.config.is_encoder_decoder else None
    out: Any = model.apply({"params": params}, **batch, method=method)
    states, pooled = (getattr(out, name, None) for name in ("last_hidden_state", "pooler_output"))
    if pooling is None:
        pooling = "pooler" if states is None else "mean"
    source = pooled if pooling == "pooler" else states
    if source is None:
        what = "pooler_output" if pooling == "pooler" else "last_hidden_state"
        raise ValueError(
            f"pooling={pooling!r} needs a {what}, which a {type(model).__name__} does not give; choose another "
            'pooling, or load the model with cls="AutoModel"'
        )
    source = source.astype(jnp.float32)
    mask = batch["attention_mask"][:, :, None]
    if pooling == "mean":
        source = (source * mask).sum(axis=1) / mask.sum(axis=1)
    elif pooling == "max":
        source = jnp.where(mask == 1, source, -jnp.inf).max(axis=1)
    elif pooling == "cls":
        source = source[:, 0]
    elif pooling == "last":
        source = jnp.take_along_axis(source, mask.sum(axis=1, keepdims=True) - 1, axis=1)[:, 0]
    return source / jnp.maximum(jnp.linalg.norm(source, axis=-1, keepdims=True), 1e-12) if normalize else source


@partial(jax.jit, static_argnums=0)
def _probabilities(model: Model, params: Mapping[str, Any], batch: Mapping[str, jax.Array]) -> jax.Array:
    """float32 [B,num_labels]."""
    out: Any = model.apply({"params": params}, **batch)
    logits, problem = out.logits.astype(jnp.float32), model.config.problem_type
    if problem == "multi_label_classification":
        return jax.nn.sigmoid(logits)
    return logits if problem == "regression" or logits.shape[-1] == 1 else jax.nn.softmax(logits)
