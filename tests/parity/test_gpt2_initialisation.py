"""Fresh parameters, by the reference's rules (docs/parity.md, C11)."""

import math

import jax
import numpy as np
import pytest
import torch
import transformers

import jaxmodels as jm
from jaxmodels.parameters import flatten

# Wide enough that a standard deviation is sharp: the smallest matrix has 4096 numbers.
SIZES = {"vocab_size": 97, "n_positions": 64, "n_embd": 64, "n_layer": 8, "n_head": 4, "pad_token_id": 0}
RANGE = 0.05


@pytest.fixture(scope="module")
def fresh():
    config = jm.GPT2Config(**SIZES, initializer_range=RANGE, add_cross_attention=True)
    return flatten(jm.init(jm.GPT2DoubleHeadsModel(config), jax.random.key(0)))


@pytest.mark.parity("C11")
def test_every_kernel_and_table_is_normal_with_the_configured_width(fresh):
    kernels = {path: leaf for path, leaf in fresh.items() if path.endswith(("kernel", "embedding"))}
    assert len(kernels) == 10
    for path, leaf in kernels.items():
        residual = path.endswith(("attention/out/kernel", "feed_forward/down/kernel"))
        std = RANGE / math.sqrt(2 * SIZES["n_layer"]) if residual else RANGE
        tolerance = 0.04 if leaf.size > 1000 else 0.25
        assert abs(np.std(leaf) / std - 1) < tolerance, path
        assert abs(np.mean(leaf)) < 4 * std / math.sqrt(leaf.size), path


@pytest.mark.parity("C11")
def test_norms_are_one_and_every_bias_is_zero(fresh):
    for path, leaf in fresh.items():
        if path.endswith("scale"):
            assert (np.asarray(leaf) == 1).all(), path
        if path.endswith("bias"):
            assert (np.asarray(leaf) == 0).all(), path


@pytest.mark.parity("C11")
def test_layers_differ_from_each_other(fresh):
    kernel = np.asarray(fresh["transformer/h/layers/feed_forward/up/kernel"])
    for layer in kernel[1:]:
        assert abs(np.corrcoef(kernel[0].ravel(), layer.ravel())[0, 1]) < 0.1


@pytest.mark.parity("C11")
def test_same_statistics_as_the_reference(fresh, tmp_path):
    torch.manual_seed(0)
    config = transformers.GPT2Config(**SIZES, initializer_range=RANGE, add_cross_attention=True)
    transformers.GPT2DoubleHeadsModel(config).save_pretrained(tmp_path)
    for path, leaf in flatten(jm.load(tmp_path)[1]).items():
        assert np.isclose(np.std(leaf), np.std(fresh[path]), rtol=0.06 if leaf.size > 1000 else 0.3), path


@pytest.mark.parity("C11")
def test_same_key_same_parameters_another_key_others():
    model = jm.GPT2Model(jm.GPT2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=1, n_head=2))
    one, two, three = (flatten(jm.init(model, jax.random.key(seed))) for seed in (1, 1, 2))
    assert all(np.array_equal(one[path], two[path]) for path in one)
    assert not np.array_equal(one["wte/embedding"], three["wte/embedding"])
