"""The built-in logits processors.

Each is a pytree whose arrays are traced, called as (text, scores float32 [N,V]) -> scores; the names are those of the
reference's classes, transformers/generation/logits_process.py (docs/parity.md, N4). Guidance is not among them: it
needs the model and is part of the decoding step (see `prompts.DecoderOnlyPrompts`).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.generation import callbacks
from jaxmodels.generation.config import GenerationConfig
from jaxmodels.generation.search import NEG_INF, NO_TOKEN, Processor, Text, bucket
from pallas_kernels import vary_alike

ANY_TOKEN = -1  # in a sequence: matches every token
EVERY_LENGTH = -1
NO_LENGTH = -2  # never the length of a sequence: fills a bucket


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RepetitionPenalty:
    """Divides positive and multiplies negative scores of tokens in the sequence by a penalty (arXiv:1909.05858)."""

    penalty: jax.Array

    def __call__(self, text: Text, scores: jax.Array) -> jax.Array:
        return _penalize(scores, jnp.where(text.written, text.ids, scores.shape[1]), self.penalty)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EncoderRepetitionPenalty:
    """The inverse penalty for tokens of the source: above 1 it favours them.

    With beams the reference penalizes the first examples only; here every beam has the source of its example.

    Attributes:
      source: int32 [B,S], NO_TOKEN at padding.
    """

    penalty: jax.Array
    source: jax.Array

    def __call__(self, text: Text, scores: jax.Array) -> jax.Array:
        source = _repeat_source(self.source, scores.shape[0])
        return _penalize(scores, jnp.where(source >= 0, source, scores.shape[1]), 1.0 / self.penalty)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NoRepeatNGram:
    """Forbids tokens that would repeat an n-gram of the sequence. size: int32 scalar."""

    size: jax.Array

    def __call__(self, text: Text, scores: jax.Array) -> jax.Array:
        ids = jnp.where(text.written, text.ids, NO_TOKEN)
        return _forbid_ngrams(scores, ids, text, self.size)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EncoderNoRepeatNGram:
    """Forbids tokens that would repeat an n-gram of the source.

    Attributes:
      size: int32 scalar.
      source: int32 [B,S], NO_TOKEN at padding.
    """

    size: jax.Array
    source: jax.Array

    def __call__(self, text: Text, scores: jax.Array) -> jax.Array:
        return _forbid_ngrams(scores, _repeat_source(self.source, scores.shape[0]), text, self.size)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class HammingDiversity:
    """Subtracts `penalty` whenever an earlier beam group selected the token in this step (arXiv:1610.02424)."""

    penalty: jax.Array

    def __call__(self, text: Text, scores: jax.Array) -> jax.Array:
        if text.earlier is None:
            return scores
        return scores.at[jnp.arange(scores.shape[0])[:, None], text.earlier].add(-self.penalty)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SequenceBias:
    """Adds a bias to the score of a token that would complete a sequence of tokens.

    Attributes:
      prefix: int32 [S,M], the tokens of each sequence before its last one, right-aligned after ANY_TOKEN.
      last: int32 [S], the last token. bias: float32 [S]. Both are 0 in entries that only fill the bucket.
      lengths: int32 [S], tokens per sequence. As in the reference, a sequence longer than the text has no effect.
    """

    prefix: jax.Array
    last: jax.Array
    bias: jax.Array
    lengths: jax.Array

    @classmethod
    def from_biases(cls, biases: Mapping[tuple[int, ...], float]) -> Self:
        count = bucket(len(biases), smallest=4)
        width = bucket(max(map(len, biases)), smallest=4) - 1
        prefix = np.full((count, width), ANY_TOKEN, np.int32)
        last, lengths, bias = np.zeros(count, np.int32), np.zeros(count, np.int32), np.zeros(count, np.float32)
        for index, (sequence, value) in enumerate(biases.items()):
            *head, last[index] = sequence
            prefix[index, width - len(head) :] = head
            lengths[index], bias[index] = len(sequence), value
        return cls(*map(jnp.asarray, (prefix, last, bias, lengths)))

    def __call__(self, text: Text, scores: jax.Array) -> jax.Array:
        tail = text.last(self.prefix.shape[1])[:, None]
        matches = ((self.prefix == tail) | (self.prefix == ANY_TOKEN)).all(axis=-1) & (self.lengths <= text.count)
        added = jnp.where(matches, self.bias, 0.0)
        index = jnp.arange(scores.shape[0])[:, None]
        return scores + jnp.zeros_like(scores).at[index, jnp.broadcast_to(self.last, added.shape)].add(added)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MinLength:
    """Forbids eos ids, int32 [E], while the sequence has fewer than `length` tokens."""

    length: jax.Array
    eos_ids: jax.Array

    def __call__(self, text: Text, scores: jax.Array) -> jax.Array:
        return jnp.where(text.count < self.length, scores.at[:, self.eos_ids].set(NEG_INF), scores)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ForcedTokens:
    """At length lengths[i] the next token is tokens[i], or another one with the same length; its score is 0.

    Attributes:
      lengths, tokens: int32 [M].
    """

    lengths: jax.Array
    tokens: jax.Array

    @classmethod
    def from_pairs(cls, lengths: Sequence[int], tokens: Sequence[int]) -> Self:
        padding = (0, bucket(len(lengths), smallest=1) - len(lengths))
        arrays = (np.asarray(values, np.int32) for values in (lengths, tokens))
        return cls(*(jnp.asarray(np.pad(array, padding, constant_values=NO_LENGTH)) for array in arrays))

    def __call__(self, text: Text, scores: jax.Array) -> jax.Array:
        active = self.lengths == text.count
        index = jnp.where(active, self.tokens, scores.shape[1])
        forced = jnp.full(scores.shape[1], NEG_INF).at[index].set(0.0, mode="drop")
        return jnp.where(active.any(), forced, scores)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SuppressTokens:
    """Forbids tokens at one length of the sequence, or at EVERY_LENGTH.

    Attributes:
      tokens: int32 [M]; V fills the bucket.
      length: int32 scalar.
    """

    tokens: jax.Array
    length: jax.Array

    @classmethod
    def from_tokens(cls, tokens: Sequence[int], vocab_size: int, length: int = EVERY_LENGTH) -> Self:
        padding = (0, bucket(len(tokens), smallest=4) - len(tokens))
        padded = np.pad(np.asarray(tokens, np.int32), padding, constant_values=vocab_size)
        return cls(jnp.asarray(padded), jnp.int32(length))

    def __call__(self, text: Text, scores: jax.Array) -> jax.Array:
        active = (self.length == EVERY_LENGTH) | (text.count == self.length)
        return jnp.where(active, scores.at[:, self.tokens].set(NEG_INF, mode="drop"), scores)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ExponentialDecayLengthPenalty:
    """Beyond length `start`, raises the scores of eos ids by |score| * (factor ** (tokens beyond) - 1).

    Eos ids that another processor has forbidden stay forbidden; in the reference their score becomes NaN.
    """

    start: jax.Array
    factor: jax.Array
    eos_ids: jax.Array

    def __call__(self, text: Text, scores: jax.Array) -> jax.Array:
        beyond = text.count - self.start
        growth = self.factor ** jnp.maximum(beyond, 0).astype(jnp.float32) - 1
        eos_scores = scores[:, self.eos_ids]
        increase = jnp.where(jnp.isfinite(eos_scores), jnp.abs(eos_scores) * growth, 0.0)
        return jnp.where(beyond > 0, scores.at[:, self.eos_ids].set(eos_scores + increase), scores)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class InfNanRemove:
    """Replaces NaN by 0 and infinities by the largest and smallest finite numbers."""

    def __call__(self, text: Text, scores: jax.Array) -> jax.Array:
        return jnp.nan_to_num(scores, nan=0.0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LogitNormalization:
    """Log-softmax over the vocabulary."""

    def __call__(self, text: Text, scores: jax.Array) -> jax.Array:
        return jax.nn.log_softmax(scores, axis=-1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PrefixConstrained:
    """Allows the tokens that the caller's `prefix_allowed_tokens_fn` returns, on the host.

    Attributes:
      number: of the function, see `callbacks.HostCallback`.
      num_real: int32 scalar, examples; further ones only pad the batch.
      beams: static, sequences per example.
    """

    number: jax.Array
    num_real: jax.Array
    beams: int = dataclasses.field(metadata={"static": True})

    def __call__(self, text: Text, scores: jax.Array) -> jax.Array:
        function = partial(callbacks.allowed_tokens, beams=self.beams, vocab_size=scores.shape[1])
        result = jax.ShapeDtypeStruct(scores.shape, np.bool_)
        allowed = jax.pure_callback(function, result, self.number, self.num_real, text.ids, text.start, text.end)
        return jnp.where(allowed, scores, NEG_INF)


def _penalize(scores: jax.Array, ids: jax.Array, penalty: jax.Array) -> jax.Array:
    """Applies a repetition penalty to the tokens ids [N,L], once each; V stands for no token."""
    found = jnp.take_along_axis(scores, ids, axis=1, mode="clip")
    found = jnp.where(found < 0, found * penalty, found / penalty)
    return scores.at[jnp.arange(scores.shape[0])[:, None], ids].set(found, mode="drop")


def _forbid_ngrams(scores: jax.Array, ids: jax.Array, text: Text, size: jax.Array) -> jax.Array:
    """Forbids tokens of ids [N,M] whose size-1 predecessors are the last tokens of the text: they would complete an
    n-gram that ids contain. NO_TOKEN is no token."""

    def same(back: jax.Array, matches: jax.Array) -> jax.Array:
        column = jnp.maximum(text.end - back, 0)
        last = jax.lax.dynamic_slice_in_dim(text.ids, column, 1, axis=1)
        before = jnp.where(jnp.arange(ids.shape[1]) >= back, jnp.roll(ids, back, axis=1), NO_TOKEN)
        return matches & (before == last)

    found, text = vary_alike((ids >= 0, text))
    completes = jax.lax.fori_loop(1, size, same, found) & (text.count >= size - 1)
    index = jnp.where(completes, ids, scores.shape[1])
    return scores.at[jnp.arange(scores.shape[0])[:, None], index].set(NEG_INF, mode="drop")


def _repeat_source(source: jax.Array, batch: int) -> jax.Array:
    """Repeats the source of each example for its sequences, which are adjacent in the batch."""
    return jnp.repeat(source, batch // source.shape[0], axis=0)


def make_processors(
    config: GenerationConfig,
    *,
    vocab_size: int,
    source: np.ndarray,
    prefix_length: int,
    max_new_tokens: int,
    num_real: int,
    prefix_function: np.int32 | None,
    custom: Sequence[Processor],
) -> tuple[Processor, ...]:
    """The enabled processors, in the order of the reference (`_get_logits_processor`).

    Args:
      source: int32 [B,S], the encoder's input, or the prompt; NO_TOKEN at padding.
      prefix_length: tokens of the prompt, or of the decoder's first tokens.
      num_real: sequences in the batch that are not padding.
      prefix_function: number of the `HostCallback` of `prefix_allowed_tokens_fn`.
      custom: the caller's processors.
    """
    c, eos_ids = config, jnp.array(config.eos_token_id, jnp.int32)
    longest = max(prefix_length + max_new_tokens, source.shape[1]) + 1  # no n-gram is this long
    found: list[Processor] = []
    if c.sequence_bias:
        found.append(SequenceBias.from_biases(dict(c.sequence_bias)))
    if c.diversity_penalty > 0.0:
        found.append(HammingDiversity(jnp.float32(c.diversity_penalty)))
    if c.encoder_repetition_penalty != 1.0:
        found.append(EncoderRepetitionPenalty(jnp.float32(c.encoder_repetition_penalty), jnp.asarray(source)))
    if c.repetition_penalty != 1.0:
        found.append(RepetitionPenalty(jnp.float32(c.repetition_penalty)))
    if c.no_repeat_ngram_size:
        found.append(NoRepeatNGram(jnp.int32(min(c.no_repeat_ngram_size, longest))))
    if c.encoder_no_repeat_ngram_size:
        size = jnp.int32(min(c.encoder_no_repeat_ngram_size, longest))
        found.append(EncoderNoRepeatNGram(size, jnp.asarray(source)))
    if words := {word: NEG_INF for word in c.bad_words_ids if not (len(word) == 1 and word[0] in c.eos_token_id)}:
        found.append(SequenceBias.from_biases(words))
    if c.eos_token_id and c.min_length:
        found.append(MinLength(jnp.int32(c.min_length), eos_ids))
    if c.eos_token_id and c.min_new_tokens:
        found.append(MinLength(jnp.int32(prefix_length + c.min_new_tokens), eos_ids))
    if prefix_function is not None:
        number = jnp.int32(prefix_function)
        found.append(PrefixConstrained(number, jnp.int32(num_real), c.num_beams // c.num_beam_groups))
    if c.forced_bos_token_id is not None:
        found.append(ForcedTokens.from_pairs([1], [c.forced_bos_token_id]))
    if c.forced_eos_token_id:
        lengths = [prefix_length + max_new_tokens - 1] * len(c.forced_eos_token_id)
        found.append(ForcedTokens.from_pairs(lengths, c.forced_eos_token_id))
    if c.remove_invalid_values:
        found.append(InfNanRemove())
    if c.exponential_decay_length_penalty is not None and c.eos_token_id:
        start, factor = c.exponential_decay_length_penalty
        found.append(ExponentialDecayLengthPenalty(jnp.int32(prefix_length + start), jnp.float32(factor), eos_ids))
    if c.suppress_tokens:
        found.append(SuppressTokens.from_tokens(c.suppress_tokens, vocab_size))
    if c.begin_suppress_tokens:
        # The length at which the first token is generated that is not forced.
        length = prefix_length + (prefix_length == 1 and c.forced_bos_token_id is not None)
        length += c.forced_decoder_ids[-1][0] if c.forced_decoder_ids else 0
        found.append(SuppressTokens.from_tokens(c.begin_suppress_tokens, vocab_size, length))
    if forced := [(length, token) for length, token in c.forced_decoder_ids if token is not None]:
        found.append(ForcedTokens.from_pairs(*zip(*forced, strict=True)))
    found += [as_pytree(processor) for processor in custom]
    if c.renormalize_logits:
        found.append(LogitNormalization())
    return tuple(found)


def as_pytree(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a plain function as a pytree without leaves, so that only another function recompiles."""
    return jax.tree_util.Partial(function) if jax.tree_util.all_leaves([function]) else function
