"""The processors of a call, in the reference's order (transformers/generation/utils.py, `_get_logits_processor`).

Guidance, the first of that order, is in the step function: it needs the model.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.generation.config import GenerationConfig
from jaxmodels.generation.constraints import (
    Allowed,
    ExponentialDecay,
    Forced,
    NoEarlyEnd,
    RemoveInvalid,
    Renormalise,
    SequenceBias,
    Suppressed,
)
from jaxmodels.generation.penalties import (
    Diversity,
    NoRepeatedNgrams,
    NoSourceNgrams,
    Repetition,
    SourceRepetition,
)
from jaxmodels.generation.text import Text

# (text, scores float32 [N,V]) -> scores; a pytree, so that its numbers are traced.
Processor = Callable[[Text, jax.Array], jax.Array]


def processors(
    config: GenerationConfig,
    *,
    vocabulary: int,
    source: np.ndarray,
    beginning: int,
    new: int,
    examples: int,
    prefix_function: np.int32 | None,
    custom: Sequence[Processor],
) -> tuple[Processor, ...]:
    """All that are on.

    Args:
      source: int32 [B,S], what the encoder reads, or the prompt; -1 where there is none.
      beginning: tokens of the prompt, or those that the decoder starts with. new: tokens that may follow.
      examples: real rows of the batch.
      prefix_function: the number of `prefix_allowed_tokens_fn`.
      custom: the caller's.
    """
    c, eos = config, jnp.array(config.eos_token_id, jnp.int32)
    most = max(beginning + new, source.shape[1]) + 1  # no n-gram is that long
    found: list[Processor] = []
    if c.sequence_bias:
        found.append(SequenceBias.of(dict(c.sequence_bias)))
    if c.diversity_penalty > 0.0:
        found.append(Diversity(jnp.float32(c.diversity_penalty)))
    if c.encoder_repetition_penalty != 1.0:
        found.append(SourceRepetition(jnp.float32(c.encoder_repetition_penalty), jnp.asarray(source)))
    if c.repetition_penalty != 1.0:
        found.append(Repetition(jnp.float32(c.repetition_penalty)))
    if c.no_repeat_ngram_size:
        found.append(NoRepeatedNgrams(jnp.int32(min(c.no_repeat_ngram_size, most))))
    if c.encoder_no_repeat_ngram_size:
        found.append(NoSourceNgrams(jnp.int32(min(c.encoder_no_repeat_ngram_size, most)), jnp.asarray(source)))
    if words := {word: -np.inf for word in c.bad_words_ids if not (len(word) == 1 and word[0] in c.eos_token_id)}:
        found.append(SequenceBias.of(words))
    if c.eos_token_id and c.min_length:
        found.append(NoEarlyEnd(jnp.int32(c.min_length), eos))
    if c.eos_token_id and c.min_new_tokens:
        found.append(NoEarlyEnd(jnp.int32(beginning + c.min_new_tokens), eos))
    if prefix_function is not None:
        found.append(Allowed(jnp.int32(prefix_function), jnp.int32(examples), c.num_beams // c.num_beam_groups))
    if c.forced_bos_token_id is not None:
        found.append(Forced.of([1], [c.forced_bos_token_id]))
    if c.forced_eos_token_id:
        found.append(Forced.of([beginning + new - 1] * len(c.forced_eos_token_id), c.forced_eos_token_id))
    if c.remove_invalid_values:
        found.append(RemoveInvalid())
    if c.exponential_decay_length_penalty is not None and c.eos_token_id:
        start, factor = c.exponential_decay_length_penalty
        found.append(ExponentialDecay(jnp.int32(beginning + start), jnp.float32(factor), eos))
    if c.suppress_tokens:
        found.append(Suppressed.of(c.suppress_tokens, vocabulary))
    if c.begin_suppress_tokens:
        found.append(Suppressed.of(c.begin_suppress_tokens, vocabulary, _first_free(c, beginning)))
    if forced := [(length, token) for length, token in c.forced_decoder_ids if token is not None]:
        found.append(Forced.of(*zip(*forced, strict=True)))
    found += [as_pytree(processor) for processor in custom]
    if c.renormalize_logits:
        found.append(Renormalise())
    return tuple(found)


def as_pytree(function: Callable[..., Any]) -> Callable[..., Any]:
    """A plain function as a pytree without leaves: compiled anew for another function, and only then."""
    return jax.tree_util.Partial(function) if jax.tree_util.all_leaves([function]) else function


def _first_free(config: GenerationConfig, beginning: int) -> int:
    """The length at which the first token comes that is not forced."""
    after_bos = beginning == 1 and config.forced_bos_token_id is not None
    return beginning + after_bos + (config.forced_decoder_ids[-1][0] if config.forced_decoder_ids else 0)
