"""The theoretical costs, compared with the shapes of the models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodels as jm
from benchmarks import work
from benchmarks.scales import BASE
from jaxmodels.parameters import abstract, flatten

WIDE = {"vocab_size": 1000, "n_positions": 64, "n_embd": 128, "n_layer": 2, "n_head": 2}


def test_sizes_are_those_of_the_parameters():
    sizes = {p: np.prod(leaf.shape) for p, leaf in flatten(abstract(_model(BASE.model))).items()}
    words, positions = sizes["transformer/wte/embedding"], sizes["transformer/wpe/embedding"]
    assert work.embedding_sizes(BASE.model) == (words, positions)
    # The limit on memory while loading counts in largest tensors; stacked layers are larger in larger models.
    assert max(sizes.values()) == words
    assert work.file_gigabytes(BASE.model) == pytest.approx(4 * sum(sizes.values()) / 1e9)
    assert work.decode_gigabytes(BASE.model, 3) == pytest.approx(3 * 4 * (sum(sizes.values()) - positions) / 1e9)


def test_prefill_counts_the_matrix_products():
    ids = jax.ShapeDtypeStruct((2, 64), jnp.int32)
    counted = _flops(lambda params, ids: _model(WIDE).apply({"params": params}, ids, logits_to_keep=1).logits, ids)
    assert work.prefill_gigaflops(WIDE, 2, 64) == pytest.approx(counted / 1e9, rel=0.03)


def test_train_counts_forward_and_backward():
    ids = jax.ShapeDtypeStruct((2, 64), jnp.int32)
    loss = jax.grad(lambda params, ids: _model(WIDE).apply({"params": params}, ids, labels=ids).loss)
    assert work.train_gigaflops(WIDE, 2, 64) == pytest.approx(_flops(loss, ids) / 1e9, rel=0.03)


def _model(sizes):
    # XLA counts the body of a loop once, hence unrolled.
    return jm.GPT2LMHeadModel(jm.GPT2Config(**sizes), unroll=True)


def _flops(function, ids) -> float:
    """Count by XLA, which includes elementwise operations."""
    return jax.jit(function).lower(abstract(_model(WIDE)), ids).cost_analysis()["flops"]


LLAMA = {**BASE.llama, "vocab_size": 1000, "hidden_size": 96, "num_hidden_layers": 2, "intermediate_size": 256}


def test_llama_counts_kernels_and_matrix_products():
    model = jm.LlamaForCausalLM(jm.LlamaConfig(**LLAMA), unroll=True)
    kernels = sum(np.prod(x.shape) for path, x in flatten(abstract(model)).items() if path.endswith("kernel"))
    assert work.llama_decode_gigabytes(LLAMA, 3) == pytest.approx(3 * 4 * kernels / 1e9)

    def flops(function, batch) -> float:
        ids = jax.ShapeDtypeStruct((batch, 64), jnp.int32)
        return jax.jit(function).lower(abstract(model), ids).cost_analysis()["flops"] / 1e9

    def loss(params, ids):
        return model.apply({"params": params}, ids, labels=ids).loss

    counted = flops(lambda params, ids: model.apply({"params": params}, ids, logits_to_keep=1).logits, 1)
    assert work.llama_prefill_gigaflops(LLAMA, 1, 64) == pytest.approx(counted, rel=0.05)
    assert work.llama_train_gigaflops(LLAMA, 2, 64) == pytest.approx(flops(jax.grad(loss), 2), rel=0.06)


ENCODER = {**BASE.encoder, "vocab_size": 1000, "hidden_size": 128, "num_hidden_layers": 2, "intermediate_size": 256}


def test_encoders_count_their_matrix_products():
    sizes = {**ENCODER, "num_attention_heads": 2, "hidden_act": "relu"}  # erf would be a fifth of so small a model
    model = jm.RobertaPreLayerNormForMaskedLM(jm.RobertaPreLayerNormConfig(**sizes), unroll=True)
    ids = jax.ShapeDtypeStruct((2, 64), jnp.int32)
    counted = jax.jit(lambda params, ids: model.apply({"params": params}, ids).logits).lower(abstract(model), ids)
    expected = counted.cost_analysis()["flops"] / 1e9
    assert 2 * work.masked_gigaflops(sizes, 64) == pytest.approx(expected, rel=0.05)
