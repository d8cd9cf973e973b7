"""The caller's own processors run in the compiled loop, behind the built-in ones (docs/parity.md, N4)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from support.lively import UNHEARD, equal_beams, equal_scores, ours, padded, texts, theirs
from transformers import LogitsProcessor, LogitsProcessorList

from jaxmodels.generation import recompiles

PAD, PROMPT = 4, 6
OPTIONS = {"max_new_tokens": 12, "pad_token_id": PAD, "eos_token_id": UNHEARD}


@pytest.fixture(scope="module")
def batch():
    ids, mask = padded(texts(3, PROMPT, seed=2), [6, 3, 5], PAD, "left")
    return {"ids": ids, "attention_mask": mask}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NotNear:
    """Lowers what is within a distance of the last token, and what has the parity of the text's length."""

    distance: jax.Array
    by: jax.Array

    def __call__(self, text, scores):
        ids = jnp.arange(scores.shape[1])
        near = jnp.abs(ids - text.last(1)) <= self.distance
        return scores - self.by * near - self.by * (ids % 2 == text.count % 2)


class TheirNotNear(LogitsProcessor):
    def __init__(self, distance, by):
        self.distance, self.by = distance, by

    def __call__(self, input_ids, scores):
        ids = torch.arange(scores.shape[1])
        near = (ids - input_ids[:, -1:]).abs() <= self.distance
        return scores - self.by * near - self.by * (ids % 2 == input_ids.shape[1] % 2)


def plain(text, scores):
    return NotNear(9, 2.0)(text, scores)


BEAMS = {"num_beams": 3, "num_return_sequences": 2}


@pytest.mark.parametrize("more", [{}, pytest.param(BEAMS, marks=pytest.mark.slow)], ids=["greedy", "beams"])
@pytest.mark.parity("N4")
def test_a_processor_of_the_callers_gives_what_one_of_the_reference_gives(more, gpt2, batch):
    """Behind the penalty for repetition, and before the scores are normalised again."""
    options = {**OPTIONS, "repetition_penalty": 1.5, "renormalize_logits": True, **more}
    mine = NotNear(jnp.int32(9), jnp.float32(2.0))
    got = ours(gpt2, **batch, logits_processor=[mine], output_scores=True, **options)
    expected = theirs(gpt2, **batch, logits_processor=LogitsProcessorList([TheirNotNear(9, 2.0)]), **options)
    if more:
        equal_beams(got, expected)
    else:
        np.testing.assert_array_equal(got.sequences, expected.sequences)
    equal_scores(got.scores, expected.scores)
    assert not np.array_equal(got.sequences, ours(gpt2, **batch, **options).sequences)


def test_arrays_of_a_pytree_are_traced_and_a_plain_function_is_compiled_once(gpt2, batch):
    def call(*processors):
        before = recompiles.compiled()
        sequences = ours(gpt2, **batch, logits_processor=processors, **OPTIONS).sequences
        return np.asarray(sequences), recompiles.compiled() - before

    expected, _ = call(NotNear(jnp.int32(9), jnp.float32(2.0)))
    assert call(NotNear(jnp.int32(3), jnp.float32(1.0)))[1] == 0
    got, compiled = call(plain)
    np.testing.assert_array_equal(got, expected)
    assert compiled == 1 and call(plain)[1] == 0
    assert call(lambda text, scores: scores)[1] == 1


def test_what_a_processor_knows_of_a_text(gpt2, batch):
    """Seen from outside by callbacks: as in the reference the prompt counts, with the padding that the caller put."""
    seen = []

    def look(text, scores):
        facts = (text.last(3), text.count, text.generated, text.written.sum(), text.ids[:, text.prompt])
        jax.debug.callback(lambda *values: seen.append([np.asarray(value) for value in values]), *facts, ordered=True)
        return scores

    got = np.asarray(ours(gpt2, **batch, logits_processor=[look], **OPTIONS).sequences)
    jax.effects_barrier()
    assert len(seen) == 12
    for step, (last, count, generated, written, first) in enumerate(seen):
        end = PROMPT + step
        np.testing.assert_array_equal(last[:3], got[:, end - 3 : end])
        assert (count, generated, written) == (end, step, end)
        if step:
            np.testing.assert_array_equal(first[:3], got[:, PROMPT])
