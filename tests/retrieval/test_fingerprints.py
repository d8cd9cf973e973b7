"""Fingerprints of encoders: independent of dtype and sharding, different for different encoders."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.tiny import random_params, tiny

import jaxmodels as jm
from jaxmodels import sharding
from jaxmodels.parameters import flatten, unflatten
from jaxmodels.retrieval import DenseIndex, check_encoders, fingerprint


@pytest.fixture(scope="module")
def encoder():
    return tiny("DPRContextEncoder")


def test_dtype_sharding_and_run_options_do_not_change_a_fingerprint(encoder):
    model, params = encoder
    expected = fingerprint(model, params)
    assert len(expected) == 32 and int(expected, 16)
    mesh = sharding.make_mesh({"data": 2, "model": 4})
    sharded = jax.device_put(params, sharding.shardings(model, mesh, sharding.FSDP_TP))
    for other in (sharded, jax.tree.map(lambda x: x.astype(jnp.bfloat16), params), jax.tree.map(np.asarray, params)):
        assert fingerprint(model, other) == expected
    assert fingerprint(model.clone(dtype=jnp.bfloat16, remat=True), params) == expected
    config = model.config.replace(torch_dtype="float16", architectures=("X",), output_hidden_states=True)
    assert fingerprint(model.clone(config=config), params) == expected


def test_any_other_parameter_or_config_changes_a_fingerprint(encoder):
    model, params = encoder
    flat = flatten(params)
    seen = {fingerprint(model, params)}
    for path in list(flat)[::3]:
        for change in (lambda x: x.at[(-1,) * x.ndim].add(0.5), lambda x: jnp.roll(x, 1, axis=-1)):
            seen.add(fingerprint(model, unflatten({**flat, path: change(jnp.asarray(flat[path]))})))
    seen.add(fingerprint(model.clone(config=model.config.replace(layer_norm_eps=1e-5)), params))
    other, _ = tiny("DPRQuestionEncoder")
    seen.add(fingerprint(other, params))
    # Rolling a vector of equal numbers (fresh norms and biases) changes nothing.
    uniform = sum(len(np.unique(np.asarray(flat[path]))) == 1 for path in list(flat)[::3])
    assert len(seen) == 3 + 2 * len(list(flat)[::3]) - uniform


def test_an_index_of_another_encoder_raises(encoder):
    model, params = encoder
    name = fingerprint(model, params)
    index = DenseIndex(np.ones((3, 4)), fingerprint=name)
    index.check_encoder(name)
    DenseIndex(np.ones((3, 4))).check_encoder(name)
    index.with_fingerprint("0" * 32).check_encoder("0" * 32)
    with pytest.raises(ValueError, match=f"built by the encoder {name}, got the encoder 0000.*encode the"):
        index.check_encoder("0" * 32)


@pytest.fixture(scope="module")
def rag(encoder):
    """A RAG model with its own context encoder, and parameters."""
    config = jm.RagConfig.from_question_encoder_generator_configs(
        encoder[0].config, tiny("BartForConditionalGeneration")[0].config, n_docs=2
    )
    model = jm.RagTokenForGeneration(config, context_encoder_training=True)
    return model, random_params(model)


def test_encoders_of_a_rag_model_are_those_it_calls(rag):
    model, params = rag
    names = [fingerprint(*encoder) for encoder in model.encoders(params)]
    parts = params["rag"]
    assert names == [
        fingerprint(jm.DPRQuestionEncoder(model.config.question_encoder), parts["question_encoder"]),
        fingerprint(jm.DPRContextEncoder(model.config.question_encoder), parts["ctx_encoder"]),
    ]
    inference = model.clone(context_encoder_training=False)
    assert [fingerprint(*encoder) for encoder in inference.encoders(params)] == names[:1]
    assert [fingerprint(*encoder) for encoder in jm.RagModel(model.config).encoders(parts)] == names[:1]


def make_retriever(model, index, encoders=()):
    passages = [("a", "b")] * index.size
    return jm.RagRetriever(model.config, None, None, index=index, passages=passages, encoders=encoders)


def test_a_retriever_rejects_an_index_of_other_encoders(rag):
    model, params = rag
    both = model.encoders(params)
    index = DenseIndex(np.ones((3, model.config.question_encoder.hidden_size)))
    make_retriever(model, index, both)  # its encoder is unknown
    for encoder in both:  # the fingerprint of either is enough
        named = index.with_fingerprint(fingerprint(*encoder))
        make_retriever(model, named, both)
        make_retriever(model, named, [encoder])
    trained = jax.tree.map(lambda x: x + 0.5, params)
    with pytest.raises(ValueError, match="built for the encoder [0-9a-f]{32}, got DPRQuestionEncoder .* and"):
        make_retriever(model, named, model.encoders(trained))
    with pytest.raises(ValueError, match="got DPRQuestionEncoder [0-9a-f]{32}: pass"):
        make_retriever(model, named, both[:1])
    make_retriever(model, named)  # without encoders nothing is checked


def test_vectors_of_another_width_raise_even_without_a_fingerprint(rag):
    model, params = rag
    width = model.config.question_encoder.hidden_size
    other = types.SimpleNamespace(size=3, width=width - 1)  # like a faiss index, which has no fingerprint
    with pytest.raises(ValueError, match=f"width {width - 1}, but this DPRQuestionEncoder has width {width}"):
        check_encoders(other, model.encoders(params))
    other.width = width
    check_encoders(other, model.encoders(params))
