"""The caller's processors run in the compiled loop, after the built-in ones (docs/parity.md, N4)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from support.diverse_models import (
    NEVER_GENERATED,
    assert_equal_beams,
    assert_equal_scores,
    generate,
    padded,
    random_ids,
    reference_generate,
)
from transformers import LogitsProcessor, LogitsProcessorList

from jaxmodels.generation.loop import num_compiled

PAD, PROMPT = 4, 6
OPTIONS = {"max_new_tokens": 12, "pad_token_id": PAD, "eos_token_id": NEVER_GENERATED}


@pytest.fixture(scope="module")
def batch():
    ids, mask = padded(random_ids(3, PROMPT, seed=2), [6, 3, 5], PAD, "left")
    return {"ids": ids, "attention_mask": mask}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NotNear:
    """Lowers tokens within a distance of the last one, and tokens with the parity of the length."""

    distance: jax.Array
    by: jax.Array

    def __call__(self, text, scores):
        ids = jnp.arange(scores.shape[1])
        near = jnp.abs(ids - text.last(1)) <= self.distance
        return scores - self.by * near - self.by * (ids % 2 == text.count % 2)


class ReferenceNotNear(LogitsProcessor):
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
def test_a_custom_processor_matches_one_of_the_reference(more, gpt2, batch):
    """It is applied after the repetition penalty, and before the scores are renormalized."""
    options = {**OPTIONS, "repetition_penalty": 1.5, "renormalize_logits": True, **more}
    custom = NotNear(jnp.int32(9), jnp.float32(2.0))
    actual = generate(gpt2, **batch, logits_processor=[custom], output_scores=True, **options)
    expected = reference_generate(
        gpt2, **batch, logits_processor=LogitsProcessorList([ReferenceNotNear(9, 2.0)]), **options
    )
    if more:
        assert_equal_beams(actual, expected)
    else:
        np.testing.assert_array_equal(actual.sequences, expected.sequences)
    assert_equal_scores(actual.scores, expected.scores)
    assert not np.array_equal(actual.sequences, generate(gpt2, **batch, **options).sequences)


def test_pytrees_are_traced_and_plain_functions_compile_once(gpt2, batch):
    def call(*processors):
        before = num_compiled()
        sequences = generate(gpt2, **batch, logits_processor=processors, **OPTIONS).sequences
        return np.asarray(sequences), num_compiled() - before

    expected, _ = call(NotNear(jnp.int32(9), jnp.float32(2.0)))
    assert call(NotNear(jnp.int32(3), jnp.float32(1.0)))[1] == 0
    actual, compiled = call(plain)
    np.testing.assert_array_equal(actual, expected)
    assert compiled == 1 and call(plain)[1] == 0
    assert call(lambda text, scores: scores)[1] == 1


def test_text_that_a_processor_gets(gpt2, batch):
    """Observed by callbacks: as in the reference, the prompt is included, with the caller's padding."""
    seen = []

    def look(text, scores):
        facts = (text.last(3), text.count, text.generated, text.written.sum(), text.ids[:, text.prompt])
        jax.debug.callback(lambda *values: seen.append([np.asarray(value) for value in values]), *facts, ordered=True)
        return scores

    actual = np.asarray(generate(gpt2, **batch, logits_processor=[look], **OPTIONS).sequences)
    jax.effects_barrier()
    assert len(seen) == 12
    for step, (last, count, generated, written, first) in enumerate(seen):
        end = PROMPT + step
        np.testing.assert_array_equal(last[:3], actual[:, end - 3 : end])
        assert (count, generated, written) == (end, step, end)
        if step:
            np.testing.assert_array_equal(first[:3], actual[:, PROMPT])
