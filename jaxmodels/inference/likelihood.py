"""Log-likelihoods of tokens, of causal and of masked language models, in windows that the model has positions for."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.architectures.base import Model
from jaxmodels.inference.batches import run
from jaxmodels.layers.losses import IGNORE


class Window(NamedTuple):
    """Tokens of one call of a model.

    Attributes:
      ids: int32 [T], the input.
      labels: int32 [T], what the output of each position is compared with; IGNORE for nothing.
    """

    ids: np.ndarray
    labels: np.ndarray


class Likelihoods(NamedTuple):
    """Of the labels of a window.

    Attributes:
      log_likelihoods: float32 [N], natural logarithms, in the order of the tokens.
      greedy: bool [N], whether no other token is more probable.
    """

    log_likelihoods: np.ndarray
    greedy: np.ndarray


def causal_windows(ids: Sequence[int], *, length: int, stride: int) -> Iterator[Window]:
    """Sliding windows in which every token but the first is predicted once.

    The first window predicts `length` tokens, each of the others the next `stride` with as many tokens before them as
    fit. A small stride gives each token a longer context, and costs length / stride times as much; with stride=length
    the windows are those of EleutherAI's lm-eval.

    Args:
      ids: [N], the first of which is context only.
      length: maximum number of tokens of a window.
      stride: tokens between the ends of two windows, from 1 to `length`.

    Raises:
      ValueError: another stride.
    """
    if not 1 <= stride <= length:
        raise ValueError(f"stride must be from 1 to the length of the windows, {length}; got {stride}")
    inputs, targets = np.asarray(ids[:-1], np.int32), np.asarray(ids[1:], np.int32)
    done = 0
    while done < len(targets):
        end = min(done + stride if done else length, len(targets))
        start = max(end - length, 0)
        labels = targets[start:end].copy()
        labels[: done - start] = IGNORE
        yield Window(inputs[start:end], labels)
        done = end


def continuation_window(context: Sequence[int], continuation: Sequence[int], length: int) -> Window:
    """The last `length` tokens of a context with its continuation, of which the continuation is predicted.

    Raises:
      ValueError: an empty context, or a continuation of no token or more than `length`.
    """
    if not context or not 0 < len(continuation) <= length:
        raise ValueError(
            f"a continuation has 1 to {length} tokens after at least one of context; got {len(continuation)} after "
            f"{len(context)}"
        )
    ids = np.asarray([*context, *continuation][-length - 1 :], np.int32)
    labels = ids[1:].copy()
    labels[: -len(continuation)] = IGNORE
    return Window(ids[:-1], labels)


def masked_windows(ids: Sequence[int], special: Sequence[bool], *, mask_token_id: int) -> Iterator[Window]:
    """A window for each token of a text, in which it alone is masked (Salazar et al. 2020, arXiv:1910.14659).

    Args:
      ids: [T], with special tokens.
      special: [T], which tokens are not predicted.
      mask_token_id: id of the mask.
    """
    whole = np.asarray(ids, np.int32)
    for position in np.flatnonzero(~np.asarray(special, bool)):
        masked, labels = whole.copy(), np.full_like(whole, IGNORE)
        masked[position], labels[position] = mask_token_id, whole[position]
        yield Window(masked, labels)


def log_likelihoods(
    model: Model,
    params: Mapping[str, Any],
    windows: Sequence[Window],
    *,
    pad_token_id: int | None,
    batch_size: int,
    progress: bool = False,
) -> list[Likelihoods]:
    """Log-likelihoods of the labels of each window; windows of similar length are computed together.

    Args:
      model: with a language modelling head, without a decoder's cross attention.
      params: its parameters.
      windows: as the functions above make them.
      pad_token_id, batch_size, progress: as in `batches.run`.
    """
    fields = {
        "input_ids": [window.ids for window in windows],
        "attention_mask": [np.ones_like(window.ids) for window in windows],
        "labels": [window.labels for window in windows],
    }
    found = run(
        partial(_of_labels, model),
        params,
        fields,
        pad_token_id=pad_token_id,
        longest=model.max_source_tokens,
        batch_size=batch_size,
        progress=progress,
    )
    results = []
    for window, (values, greedy) in zip(windows, found, strict=True):
        counted = np.flatnonzero(window.labels != IGNORE)
        results.append(Likelihoods(values[counted], greedy[counted]))
    return results


@partial(jax.jit, static_argnums=0)
def _of_labels(model: Model, params: Mapping[str, Any], batch: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """float32 and bool [B,T]."""
    labels = jnp.maximum(batch["labels"], 0)
    inputs = {name: array for name, array in batch.items() if name != "labels"}
    out: Any = model.apply({"params": params}, **inputs)
    logits = out.logits.astype(jnp.float32)
    chosen = jnp.take_along_axis(logits, labels[:, :, None], axis=-1)[:, :, 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1), jnp.argmax(logits, axis=-1) == labels
