"""Padding changes nothing for the real tokens: on the right by the mask, on the left by the mask and the positions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.arrays import ids
from support.tiny import tiny

TOKENS = ids((1, 5))


@pytest.fixture(scope="module", params=["xla", "xla_blocked"])
def apply(request):
    model, params = tiny(choices={"attention": request.param})
    return jax.jit(lambda **inputs: model.apply({"params": params}, **inputs).logits)


@pytest.mark.parametrize("junk", [0, 66])
@pytest.mark.parametrize("count", [1, 3])
def test_right_padding(apply, count, junk):
    padded = {
        "input_ids": np.pad(TOKENS, ((0, 0), (0, count)), constant_values=junk),
        "attention_mask": np.pad(np.ones((1, 5), int), ((0, 0), (0, count))),
    }
    np.testing.assert_allclose(apply(**padded)[:, :5], apply(input_ids=TOKENS), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("junk", [0, 66])
@pytest.mark.parametrize("count", [1, 3])
def test_left_padding_with_positions(apply, count, junk):
    mask = np.pad(np.ones((1, 5), int), ((0, 0), (count, 0)))
    padded = {
        "input_ids": np.pad(TOKENS, ((0, 0), (count, 0)), constant_values=junk),
        "attention_mask": mask,
        "position_ids": np.where(mask, np.cumsum(mask, axis=1) - 1, 1),
    }
    np.testing.assert_allclose(apply(**padded)[:, count:], apply(input_ids=TOKENS), rtol=1e-5, atol=1e-5)


def test_rows_of_a_batch_do_not_see_each_other(apply):
    both = apply(input_ids=np.concatenate([TOKENS, ids((1, 5), seed=5)]))
    np.testing.assert_allclose(both[:1], apply(input_ids=TOKENS), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [bool, np.int8, np.float32, np.int64])
def test_the_type_of_the_mask_does_not_matter(apply, kind):
    mask = np.array([[1, 1, 1, 0, 0]])
    expected = apply(input_ids=TOKENS, attention_mask=mask)
    np.testing.assert_array_equal(apply(input_ids=TOKENS, attention_mask=mask.astype(kind)), expected)


def test_padding_does_not_reach_the_gradients():
    model, params = tiny()

    def gradients(**inputs):
        return jax.jit(jax.grad(lambda p: model.apply({"params": p}, **inputs).loss))(params)

    wide = np.pad(TOKENS, ((0, 0), (0, 2)), constant_values=66)
    mask = np.pad(np.ones((1, 5), int), ((0, 0), (0, 2)))
    got = gradients(input_ids=wide, attention_mask=mask, labels=np.where(mask, wide, -100))
    expected = gradients(input_ids=TOKENS, labels=TOKENS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), got, expected)
    # What only the padding touches has no gradient at all.
    assert not jnp.any(got["transformer"]["wpe"]["embedding"][5:])
