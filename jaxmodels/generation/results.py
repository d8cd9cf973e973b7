"""From what the loop carried to what `generate` returns, on the host: the caller's rows and columns."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.generation.beams import BeamSearch
from jaxmodels.generation.config import GenerationConfig
from jaxmodels.generation.hypotheses import EMPTY, Hypotheses
from jaxmodels.generation.loop import Carry
from jaxmodels.generation.output import GenerateOutput
from jaxmodels.generation.prompts import Called
from jaxmodels.generation.search import Progress, Search


def collected(carry: Carry, generated: int, called: Called, search: Search, config: GenerationConfig) -> GenerateOutput:
    """The output of a call that generated so many columns."""
    text, rows = carry.progress.text, called.beginning.shape[0]
    if isinstance(search, BeamSearch):
        found = jax.tree.map(np.asarray, _conclude(search, carry.progress))
        chosen = _of_beams(found, called.beginning, config.num_return_sequences, int(search.terms.pad))
    else:
        ids = np.asarray(text.ids)[:rows, text.prompt :]
        chosen = {"sequences": jnp.asarray(np.concatenate([called.beginning, ids[:, :generated]], axis=1))}
    return GenerateOutput(**chosen, **_recorded(carry, called, search.width, generated))


@jax.jit
def _conclude(search: BeamSearch, progress: Progress) -> Hypotheses:
    return search.conclude(progress)


def _of_beams(found: Hypotheses, beginning: np.ndarray, best: int, pad: int) -> dict:
    """The best hypotheses of each example as sequences, with padding after their ends."""
    prompt, rows = beginning.shape[1], len(beginning) * best
    lengths = found.lengths[: len(beginning), :best].reshape(rows)
    longest = prompt + int(lengths.max())
    sequences = np.full((rows, longest), pad, np.int32)
    indices = np.full((rows, longest), EMPTY, np.int32)
    sequences[:, :prompt] = np.repeat(beginning, best, axis=0)
    for row, length in enumerate(lengths):
        example, place = divmod(row, best)
        sequences[row, prompt : prompt + length] = found.ids[example, place, :length]
        path = found.paths[example, place]
        path = path[path != EMPTY][:longest]
        indices[row, : len(path)] = path
    return {
        "sequences": jnp.asarray(sequences),
        "sequences_scores": jnp.asarray(found.scores[: len(beginning), :best].reshape(rows)),
        "beam_indices": jnp.asarray(indices),
    }


def _recorded(carry: Carry, called: Called, width: int, generated: int) -> dict:
    """What was captured of every step, cut to the caller's rows and columns."""
    rows, end = called.beginning.shape[0] * width, carry.progress.text.prompt
    start, result = end - called.beginning.shape[1], dict[str, Any]()

    def cut(name: str, array: jax.Array, keys: int) -> jax.Array:
        if name.startswith("cross"):
            return array[:, :rows, ..., : called.read]
        return array[:, :rows, ..., start:keys] if name.endswith("attentions") else array[:, :rows]

    for name, array in carry.record.items():
        if name in ("scores", "logits"):
            result[name] = array[:generated, :rows]
            continue
        first = jnp.repeat(carry.first[name], width, axis=1)[..., start:, :]
        result[name] = (cut(name, first, end), *(cut(name, array[i], end + i) for i in range(1, generated)))
    for name, array in carry.first.items():
        if name.startswith("encoder"):
            result[name] = _of_encoder(name, array, called)
    return result


def _of_encoder(name: str, array, called: Called):
    """[L,B,S,D] of hidden states, or attentions."""
    rows, length = called.inputs, called.read
    if name.endswith("hidden_states"):
        return array[:, :rows, :length]
    return called.prompts.model.encoder_attentions(array, called.prompts.inputs, rows, length)
