"""Generation with sharded parameters gives the same ids as on one device."""

import jax
import numpy as np
import pytest
from support.tiny import tiny

import jaxmodels as jm
from jaxmodels import sharding

IDS = np.random.default_rng(0).integers(4, 67, (3, 6))


@pytest.fixture(scope="module")
def mesh():
    return sharding.make_mesh({"data": 2, "model": 4})


@pytest.mark.parametrize(
    "name", ["GPT2LMHeadModel", pytest.param("BartForConditionalGeneration", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("options", [{}, {"num_beams": 3, "no_repeat_ngram_size": 2}], ids=["greedy", "beams"])
def test_generated_ids_match_one_device(name, options, mesh):
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "decoder_start_token_id": 2}
    model, params = tiny(name, **ids)
    placed = jax.device_put(params, sharding.shardings(model, mesh, sharding.FSDP_TP))
    assert any(len(leaf.sharding.device_set) == 8 for leaf in jax.tree.leaves(placed))
    options = {"max_new_tokens": 7, **options}
    expected = jm.generate(model, params, IDS, **options)
    with sharding.use(mesh, sharding.FSDP_TP):
        got = jm.generate(model, placed, IDS, **options)
    np.testing.assert_array_equal(got.sequences, expected.sequences)
