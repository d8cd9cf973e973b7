"""One key per prompt makes draws independent of the batch, for all implementations (docs/parity.md, X1)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.diverse_models import NEVER_GENERATED, generate, random_ids

from jaxmodels.generation.sampling import as_keys

IDS = random_ids(3, 5)
OPTIONS = {"do_sample": True, "max_new_tokens": 6, "eos_token_id": NEVER_GENERATED, "pad_token_id": 4}
IMPLEMENTATIONS = ["threefry2x32", "rbg", "unsafe_rbg"]


def generated(gpt2, ids, key, **more):
    return np.asarray(generate(gpt2, ids, key=key, **OPTIONS, **more).sequences)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parity("X1")
def test_draws_of_a_prompt_do_not_depend_on_batch_order(implementation, gpt2):
    keys = jax.random.split(jax.random.key(1, impl=implementation), 3)
    for more in ({}, {"num_beams": 2}):
        together = generated(gpt2, IDS, keys, **more)
        np.testing.assert_array_equal(generated(gpt2, IDS[::-1], keys[::-1], **more), together[::-1])
    np.testing.assert_array_equal(generated(gpt2, IDS[1:2], keys[1:2]), generated(gpt2, IDS, keys)[1:2])
    assert (generated(gpt2, np.repeat(IDS[:1], 3, axis=0), keys)[1:] != generated(gpt2, IDS[:1], keys[:1])).any()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parity("X1")
def test_draws_from_one_key_do_not_depend_on_later_sequences(implementation, gpt2):
    key = jax.random.key(1, impl=implementation)
    np.testing.assert_array_equal(generated(gpt2, IDS[:2], key), generated(gpt2, IDS, key)[:2])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_raw_keys_are_converted_by_their_number_of_words(implementation):
    one = jax.random.key(1, impl=implementation)
    for key in (one, jax.random.split(one, 3)):
        raw = jax.random.key_data(key)
        with jax.default_prng_impl(implementation):
            assert as_keys(raw).dtype == key.dtype
        assert jnp.array_equal(jax.random.key_data(as_keys(raw)), raw)
        assert as_keys(np.asarray(raw)).shape == key.shape
    words = jax.random.key_data(one).shape[0]
    assert str(jax.random.key_impl(as_keys(jax.random.key_data(one)))) == {2: "threefry2x32", 4: "rbg"}[words]


@pytest.mark.parametrize(
    "key", [0, "key", np.zeros(2, np.int32), np.zeros(3, np.uint32), np.zeros((1, 1, 2), np.uint32)]
)
def test_invalid_keys_are_rejected(key):
    with pytest.raises(TypeError, match=r"jax.random.key\(0\)"):
        as_keys(key)
