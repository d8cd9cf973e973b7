"""An encoder's fingerprint: the same wherever its parameters lie, another one for any other encoder."""

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


def test_it_is_the_same_in_other_types_places_and_runs(encoder):
    model, params = encoder
    expected = fingerprint(model, params)
    assert len(expected) == 32 and int(expected, 16)
    mesh = sharding.make_mesh({"data": 2, "model": 4})
    placed = jax.device_put(params, sharding.shardings(model, mesh, sharding.FSDP_TP))
    for other in (placed, jax.tree.map(lambda x: x.astype(jnp.bfloat16), params), jax.tree.map(np.asarray, params)):
        assert fingerprint(model, other) == expected
    assert fingerprint(model.clone(dtype=jnp.bfloat16, remat=True), params) == expected
    note = model.config.replace(torch_dtype="float16", architectures=("X",), output_hidden_states=True)
    assert fingerprint(model.clone(config=note), params) == expected


def test_one_other_number_or_fact_changes_it(encoder):
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


def test_an_index_of_another_encoder_is_refused(encoder):
    model, params = encoder
    name = fingerprint(model, params)
    index = DenseIndex(np.ones((3, 4)), fingerprint=name)
    index.check_encoder(name)
    DenseIndex(np.ones((3, 4))).check_encoder(name)
    index.with_fingerprint("0" * 32).check_encoder("0" * 32)
    with pytest.raises(ValueError, match=f"built by the encoder {name}, and the encoder here is 0000.*encode the"):
        index.check_encoder("0" * 32)


@pytest.fixture(scope="module")
def rag(encoder):
    """RAG with a context encoder of its own, and parameters."""
    config = jm.RagConfig.from_question_encoder_generator_configs(
        encoder[0].config, tiny("BartForConditionalGeneration")[0].config, n_docs=2
    )
    model = jm.RagTokenForGeneration(config, context_encoder_training=True)
    return model, random_params(model)


def test_the_encoders_of_a_rag_are_those_that_it_calls(rag):
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


def assembled(model, index, encoders=()):
    passages = [("a", "b")] * index.size
    return jm.RagRetriever(model.config, None, None, index=index, passages=passages, encoders=encoders)


def test_a_retriever_refuses_an_index_of_other_encoders(rag):
    model, params = rag
    both = model.encoders(params)
    index = DenseIndex(np.ones((3, model.config.question_encoder.hidden_size)))
    assembled(model, index, both)  # nobody knows whose it is
    for encoder in both:  # the name of either is enough
        named = index.with_fingerprint(fingerprint(*encoder))
        assembled(model, named, both)
        assembled(model, named, [encoder])
    trained = jax.tree.map(lambda x: x + 0.5, params)
    with pytest.raises(ValueError, match="built for the encoder [0-9a-f]{32}, and here is DPRQuestionEncoder .* and"):
        assembled(model, named, model.encoders(trained))
    with pytest.raises(ValueError, match="here is DPRQuestionEncoder [0-9a-f]{32}: give"):
        assembled(model, named, both[:1])
    assembled(model, named)  # without encoders there is nothing to compare it with


def test_vectors_of_another_width_are_refused_also_where_an_index_has_no_name(rag):
    model, params = rag
    width = model.config.question_encoder.hidden_size
    other = types.SimpleNamespace(size=3, width=width - 1)  # as faiss's, which has no fingerprint
    with pytest.raises(ValueError, match=f"width {width - 1}, and those of the DPRQuestionEncoder here .* {width}"):
        check_encoders(other, model.encoders(params))
    other.width = width
    check_encoders(other, model.encoders(params))
