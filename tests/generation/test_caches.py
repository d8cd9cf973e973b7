"""Generation with caches of fewer bits gives mostly the same ids; see also `properties/test_cache_types.py`."""

import jax.numpy as jnp
import numpy as np
import pytest
from support.diverse_models import NEVER_GENERATED, generate, padded, random_ids

from jaxmodels.generation.loop import num_compiled

PAD, PROMPT, NEW = 4, 9, 24
OPTIONS = {"max_new_tokens": NEW, "pad_token_id": PAD, "eos_token_id": NEVER_GENERATED}
BEAMS = {"num_beams": 3, "num_return_sequences": 3}


@pytest.fixture(scope="module")
def batch():
    ids, mask = padded(random_ids(8, PROMPT, seed=2), [9, 4, 7, 9, 2, 5, 6, 3], PAD, "left")
    return {"ids": ids, "attention_mask": mask}


def generated(gpt2, batch, **options):
    return np.asarray(generate(gpt2, **batch, **OPTIONS, **options).sequences)[:, PROMPT:]


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_greedy_ids_mostly_match_float32(dtype, gpt2, batch):
    """Compared up to the first difference, after which the sequences diverge."""
    expected, actual = generated(gpt2, batch), generated(gpt2, batch, cache_dtype=dtype)
    equal = np.cumprod(expected == actual, axis=1).sum(axis=1)
    assert equal.mean() > 0.9 * NEW, equal
    assert len({tuple(row) for row in actual.tolist()}) > 1


@pytest.mark.slow
def test_beams_over_an_int8_cache_mostly_match_float32(gpt2, batch):
    expected = generate(gpt2, **batch, **OPTIONS, **BEAMS)
    actual = generate(gpt2, **batch, **OPTIONS, **BEAMS, cache_dtype="int8")
    np.testing.assert_allclose(actual.sequences_scores, expected.sequences_scores, rtol=0.03)
    equal = [
        len({tuple(row) for row in beams} & {tuple(row) for row in expected_beams})
        for beams, expected_beams in zip(
            np.asarray(actual.sequences).reshape(8, 3, -1).tolist(),
            np.asarray(expected.sequences).reshape(8, 3, -1).tolist(),
            strict=True,
        )
    ]
    assert np.mean(equal) > 0.6 * 3, equal


def test_an_int8_cache_does_not_depend_on_the_batch(gpt2, batch):
    whole = generated(gpt2, batch, cache_dtype="int8")
    single = generated(gpt2, {name: array[1:2] for name, array in batch.items()}, cache_dtype="int8")
    np.testing.assert_array_equal(single[0], whole[1])


def test_equal_cache_dtypes_compile_once(gpt2, batch):
    generated(gpt2, batch, cache_dtype="bfloat16")
    before = num_compiled()
    for equal in (jnp.bfloat16, jnp.dtype("bfloat16")):
        generated(gpt2, batch, cache_dtype=equal)
    assert num_compiled() == before
