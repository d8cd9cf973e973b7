"""Checkpoints of Hugging Face's Flax models, which transformers 5 removed (docs/parity.md, C16)."""

import warnings

import jax
import numpy as np
import pytest
from support.arrays import close, ids

import jaxmodels as jm

CONFIG = {"vocab_size": 67, "n_positions": 24, "n_embd": 32, "n_layer": 2, "n_head": 4}


@pytest.fixture(scope="module")
def former():
    """A Flax GPT-2 of the reference with random parameters, biases and norms included."""
    transformers = pytest.importorskip("transformers", minversion="4.37")
    if not hasattr(transformers, "FlaxGPT2LMHeadModel"):
        pytest.skip("transformers 5 has no Flax models")
    model = transformers.FlaxGPT2LMHeadModel(transformers.GPT2Config(**CONFIG), _do_init=False)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: model.init_weights(jax.random.PRNGKey(0), (1, 1)))
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.15, leaf.shape).astype(leaf.dtype), dict(shapes))
    return model, params


@pytest.mark.parametrize("options", [{}, {"max_shard_size": "30KB"}, {"safe_serialization": True}], ids=str)
@pytest.mark.parity("C16")
def test_older_flax_checkpoint_matches_its_logits(former, options, tmp_path):
    flax_model, params = former
    flax_model.save_pretrained(tmp_path, params=params, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, loaded = jm.load(tmp_path)
    assert type(model) is jm.GPT2LMHeadModel
    expected = flax_model.module.apply({"params": params}, ids((2, 5)), np.ones((2, 5)), np.arange(5)[None])
    close(jax.jit(lambda p: model.apply({"params": p}, ids((2, 5))).logits)(loaded), expected[0])
