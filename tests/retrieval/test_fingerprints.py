"""An encoder's fingerprint: the same wherever its parameters lie, another one for any other encoder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity.tiny import tiny

from jaxmodels import sharding
from jaxmodels.parameters import flatten, unflatten
from jaxmodels.retrieval import DenseIndex, fingerprint


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
