"""Keys of sampling: one for each prompt means what it promises, whatever the implementation (docs/parity.md, X1)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.lively import UNHEARD, ours, texts

from jaxmodels.generation.keys import as_keys

IDS = texts(3, 5)
OPTIONS = {"do_sample": True, "max_new_tokens": 6, "eos_token_id": UNHEARD, "pad_token_id": 4}
KINDS = ["threefry2x32", "rbg", "unsafe_rbg"]


def said(gpt2, ids, key, **more):
    return np.asarray(ours(gpt2, ids, key=key, **OPTIONS, **more).sequences)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parity("X1")
def test_what_a_prompt_draws_does_not_depend_on_its_place(kind, gpt2):
    keys = jax.random.split(jax.random.key(1, impl=kind), 3)
    for more in ({}, {"num_beams": 2}):
        together = said(gpt2, IDS, keys, **more)
        np.testing.assert_array_equal(said(gpt2, IDS[::-1], keys[::-1], **more), together[::-1])
    np.testing.assert_array_equal(said(gpt2, IDS[1:2], keys[1:2]), said(gpt2, IDS, keys)[1:2])
    assert (said(gpt2, np.repeat(IDS[:1], 3, axis=0), keys)[1:] != said(gpt2, IDS[:1], keys[:1])).any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parity("X1")
def test_what_a_row_draws_from_one_key_does_not_depend_on_the_rows_after_it(kind, gpt2):
    key = jax.random.key(1, impl=kind)
    np.testing.assert_array_equal(said(gpt2, IDS[:2], key), said(gpt2, IDS, key)[:2])


@pytest.mark.parametrize("kind", KINDS)
def test_raw_keys_are_those_of_their_words(kind):
    one = jax.random.key(1, impl=kind)
    for key in (one, jax.random.split(one, 3)):
        raw = jax.random.key_data(key)
        with jax.default_prng_impl(kind):
            assert as_keys(raw).dtype == key.dtype
        assert jnp.array_equal(jax.random.key_data(as_keys(raw)), raw)
        assert as_keys(np.asarray(raw)).shape == key.shape
    words = jax.random.key_data(one).shape[0]
    assert str(jax.random.key_impl(as_keys(jax.random.key_data(one)))) == {2: "threefry2x32", 4: "rbg"}[words]


@pytest.mark.parametrize(
    "key", [0, "key", np.zeros(2, np.int32), np.zeros(3, np.uint32), np.zeros((1, 1, 2), np.uint32)]
)
def test_what_is_no_key_is_refused(key):
    with pytest.raises(TypeError, match=r"jax.random.key\(0\)"):
        as_keys(key)
