"""No output depends on a later token: shown by the gradient, not by examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.arrays import numbers
from support.tiny import tiny

T = 6


def influence(model, params, **inputs):
    """bool [T,T]: does the state at t (row) depend on the embedding at s (column)?"""

    def norms(embeds):
        states = model.apply({"params": params}, inputs_embeds=embeds, **inputs).last_hidden_state
        return states[0] @ numbers((32,), seed=9)  # any projection: a plain sum is constant after the norm

    jacobian = jax.jit(jax.jacobian(norms))(jnp.asarray(numbers((1, T, 32))))
    return np.abs(np.asarray(jacobian)[:, 0]).max(axis=-1) > 0


@pytest.mark.parametrize("attention", ["xla", "xla_blocked"])
def test_each_state_sees_exactly_itself_and_the_past(attention):
    seen = influence(*tiny("GPT2Model", choices={"attention": attention}))
    np.testing.assert_array_equal(seen, np.tril(np.ones((T, T), bool)))


def test_masked_tokens_have_no_influence_on_others():
    mask = np.array([[0, 1, 1, 0, 1, 1]])
    seen = influence(*tiny("GPT2Model"), attention_mask=mask)
    expected = np.tril(np.ones((T, T), bool)) & (mask.astype(bool) | np.eye(T, dtype=bool))  # the residual path stays
    np.testing.assert_array_equal(seen, expected)


@pytest.mark.parity("C12")
def test_a_row_that_sees_nothing_stays_finite_forward_and_backward():
    model, params = tiny("GPT2LMHeadModel")
    mask = np.array([[0, 0, 0, 0], [1, 1, 1, 1]])

    def loss(params, embeds):
        return model.apply({"params": params}, inputs_embeds=embeds, attention_mask=mask).logits.sum()

    value, gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(params, jnp.asarray(numbers((2, 4, 32))))
    assert np.isfinite(value) and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_cross_attention_sees_every_source_token_that_is_not_masked():
    model, params = tiny("GPT2Model", add_cross_attention=True)
    mask = np.array([[1, 0, 1]])

    def project(source):
        options = {"encoder_hidden_states": source, "encoder_attention_mask": mask}
        states = model.apply({"params": params}, inputs_embeds=numbers((1, T, 32)), **options).last_hidden_state
        return states[0] @ numbers((32,), seed=9)

    jacobian = jax.jit(jax.jacobian(project))(jnp.asarray(numbers((1, 3, 32))))
    seen = np.abs(np.asarray(jacobian)[:, 0]).max(axis=-1) > 0
    np.testing.assert_array_equal(seen, np.broadcast_to(mask.astype(bool), (T, 3)))
