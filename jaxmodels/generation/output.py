"""`GenerateOutput`: what `generate` returns, built from the final state of the loop."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.architectures.inputs import is_concrete
from jaxmodels.generation.beams import BeamSearch, Hypotheses
from jaxmodels.generation.config import GenerationConfig
from jaxmodels.generation.encoder_decoder import EncoderDecoderPrompts
from jaxmodels.generation.loop import LoopState
from jaxmodels.generation.prompts import Array, PreparedPrompts
from jaxmodels.generation.search import NO_TOKEN, Search, SearchState
from jaxmodels.generation.traced import array_module
from jaxmodels.outputs import Output


class GenerateOutput(Output):
    """N sequences: one for each prompt, or `num_return_sequences` adjacent ones.

    With beams, the outputs of steps have an entry for each beam, [B * num_beams].

    Outside of traced functions the output is cut to the longest sequence. Inside, its shapes do not depend on values:
    `generated` is max_new_tokens, and the outputs of steps that did not run are zero.

    Reference: transformers/generation/utils.py, `GenerateDecoderOnlyOutput`, `GenerateBeamEncoderDecoderOutput` and
    the others.

    Attributes:
      sequences: int32 [N, prompt + generated], padded with the pad id after their end. The prompt is the caller's; for
        an encoder-decoder it is the prefix of the decoder.
      lengths: int32 [N], the generated tokens of each sequence, up to and including its eos id.
      sequences_scores: float32 [N], with beams: the summed log-probability divided by length ** length_penalty.
      scores: float32 [generated,N,V], what each token was selected from, after all processors and warpers.
      logits: float32 [generated,N,V], the output of the model (with guidance: the combined one).
      beam_indices: int32 [N, prompt + generated], the index in the batch of `scores` that each token was selected from;
        -1 after the end. It starts with the first generated token, as in the reference.
      attentions, hidden_states: of a decoder-only model, for every step [L,N,H,T,S] and [L+1,N,T,D]; the first step
        processes the prompt, the others one token (T = 1).
      decoder_attentions, cross_attentions, decoder_hidden_states: the same of an encoder-decoder.
      encoder_attentions: [L,B,H,S,S] (LED: see its outputs).
      encoder_hidden_states: [L+1,B,S,D].
    """

    sequences: jax.Array
    sequences_scores: jax.Array | None = None
    scores: jax.Array | None = None
    logits: jax.Array | None = None
    beam_indices: jax.Array | None = None
    attentions: tuple[jax.Array, ...] | None = None
    hidden_states: tuple[jax.Array, ...] | None = None
    encoder_attentions: Any = None
    encoder_hidden_states: jax.Array | None = None
    decoder_attentions: tuple[jax.Array, ...] | None = None
    cross_attentions: tuple[jax.Array, ...] | None = None
    decoder_hidden_states: tuple[jax.Array, ...] | None = None
    lengths: jax.Array


def compute_transition_scores(
    sequences: jax.Array,
    scores: jax.Array | None,
    beam_indices: jax.Array | None = None,
    normalize_logits: bool = False,
) -> jax.Array:
    """The score of every generated token.

    Reference: transformers/generation/utils.py, `compute_transition_scores`.

    Args:
      sequences, scores, beam_indices: fields of a `GenerateOutput`; beam_indices only with beams.
      normalize_logits: apply a log-softmax to the scores.

    Returns:
      float32 [N,generated]; 0 after the end of a beam.

    Raises:
      ValueError: the output has no scores, or those of another batch size than the sequences.

    Examples:
      >>> model, params = jm.load("openai-community/gpt2")
      >>> result = jm.generate(model, params, jnp.array([[5, 6, 7]]), max_new_tokens=4, output_scores=True)
      >>> scores = jm.compute_transition_scores(result.sequences, result.scores, normalize_logits=True)
      >>> scores.shape == (1, result.sequences.shape[1] - 3)
      True
    """
    if scores is None:
        raise ValueError("the output has no scores; call jm.generate with output_scores=True")
    sequences, scores = jnp.asarray(sequences), jnp.asarray(scores)
    if scores.ndim != 3 or (beam_indices is None and scores.shape[1] != sequences.shape[0]):
        raise ValueError(
            f"scores must be [generated,N,V] with N = {sequences.shape[0]} sequences (with beams, pass beam_indices); "
            f"got {scores.shape}"
        )
    if normalize_logits:
        scores = jax.nn.log_softmax(scores, axis=-1)
    if beam_indices is None:
        index = jnp.broadcast_to(jnp.arange(sequences.shape[0])[:, None], (sequences.shape[0], scores.shape[0]))
    else:
        longest = int((np.asarray(beam_indices) >= 0).sum(axis=-1).max(initial=0))
        index = jnp.asarray(beam_indices)[:, :longest]
    steps = index.shape[1]
    tokens = sequences[:, sequences.shape[1] - steps :]
    found = scores[jnp.arange(steps), jnp.maximum(index, 0), tokens]
    return jnp.where(index >= 0, found, 0.0)


def make_output(
    state: LoopState, generated: int, prepared: PreparedPrompts, search: Search, config: GenerationConfig
) -> GenerateOutput:
    """Builds the output of a call, cut to the caller's batch and lengths. generated: number of generated columns."""
    prefix, text = prepared.prefix, state.search.text
    fields: dict[str, Any] = {}
    if isinstance(search, BeamSearch):
        fields = _beam_fields(_finalize(search, state.search), prefix, config.num_return_sequences, search)
    else:
        module = array_module(prefix, text.ids)
        ids = module.asarray(text.ids)[: len(prefix), text.prompt : text.prompt + generated]
        fields["sequences"] = jnp.asarray(module.concatenate([prefix, ids], axis=1))
        fields["lengths"] = jnp.asarray(module.asarray(state.search.lengths)[: len(prefix)])
    if state.records:
        fields |= _step_fields(state, prepared, search.num_beams, generated)
    for name, array in state.prefill.items():
        if name.startswith("encoder"):
            fields[name] = _encoder_field(name, array, prepared)
    return GenerateOutput(**fields)


def _encoder_field(name: str, array: jax.Array, prepared: PreparedPrompts) -> Any:
    """Hidden states or attentions of the encoder, cut to the caller's inputs."""
    batch, length, prompts = prepared.num_inputs, prepared.input_length, prepared.prompts
    if name.endswith("hidden_states"):
        return array[:, :batch, :length]
    assert isinstance(prompts, EncoderDecoderPrompts)
    if not is_concrete(array):  # without padding of buckets
        return array
    return prompts.model.encoder_attentions(array, prompts.inputs, batch, length)


@jax.jit
def _finalize(search: BeamSearch, state: SearchState) -> Hypotheses:
    return search.finalize(state)


def _beam_fields(
    hypotheses: Hypotheses, prefix: Array, num_return_sequences: int, search: BeamSearch
) -> dict[str, Any]:
    """The best hypotheses of each example as sequences, padded after their ends."""
    module, best = array_module(prefix, hypotheses.ids), num_return_sequences
    batch, prompt = prefix.shape
    found = jax.tree.map(lambda a: module.asarray(a)[:batch, :best].reshape(batch * best, *a.shape[2:]), hypotheses)
    longest = int(found.lengths.max()) if is_concrete(found.lengths) else found.ids.shape[1]
    written = module.arange(longest) < found.lengths[:, None]
    ids = module.where(written, found.ids[:, :longest], module.asarray(search.config.pad_id))
    indices = module.where(written, found.paths[:, :longest], NO_TOKEN)
    return {
        "sequences": jnp.asarray(module.concatenate([prefix.repeat(best, axis=0), ids], axis=1)),
        "lengths": jnp.asarray(found.lengths),
        "sequences_scores": jnp.asarray(found.scores),
        "beam_indices": jnp.asarray(module.pad(indices, ((0, 0), (0, prompt)), constant_values=NO_TOKEN)),
    }


def _step_fields(state: LoopState, prepared: PreparedPrompts, num_beams: int, generated: int) -> dict[str, Any]:
    """The outputs of every step."""
    batch, end = prepared.prefix.shape[0] * num_beams, state.search.text.prompt
    start, fields = end - prepared.prefix.shape[1], dict[str, Any]()

    def cut(name: str, array: jax.Array, keys: int) -> jax.Array:
        if name.startswith("cross"):
            return array[:, :batch, ..., : prepared.input_length]
        return array[:, :batch, ..., start:keys] if name.endswith("attentions") else array[:, :batch]

    for name, array in state.records.items():
        if name in ("scores", "logits"):
            fields[name] = array[:generated, :batch]
            continue
        first = jnp.repeat(state.prefill[name], num_beams, axis=1)[..., start:, :]
        fields[name] = (cut(name, first, end), *(cut(name, array[i], end + i) for i in range(1, generated)))
    return fields
