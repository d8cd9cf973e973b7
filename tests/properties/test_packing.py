"""Sequences that are packed into a row have the loss and the gradients of each in a row of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny import tiny

from experiments.data.batches import IGNORE
from experiments.data.buckets import LabelledTexts
from experiments.data.segments import pack, packed

PAD, LENGTHS = 1, (5, 3, 9, 2, 4, 7, 6)
CAPACITY = 12


def texts():
    random = np.random.default_rng(0)
    return [random.integers(3, 40, length).tolist() for length in LENGTHS]


def loss_and_gradients(model, params, examples: LabelledTexts):
    """Of the sum over all labels, so that batches of different shapes are comparable."""
    batch = examples.batch(np.arange(len(examples.lengths)), CAPACITY)

    @jax.jit
    def loss(params):
        out = model.apply({"params": params}, **batch)
        return out.loss * (batch["labels"] != IGNORE).sum()

    return jax.value_and_grad(loss)(params)


@pytest.mark.parametrize(
    "name",
    ["GPT2LMHeadModel", "RobertaForMaskedLM"]
    + [
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("LlamaForCausalLM", "GPTNeoForCausalLM", "BertForMaskedLM")
    ],
)
def test_packed_rows_have_the_loss_and_gradients_of_single_ones(name):
    model, params = tiny(name)
    alone = LabelledTexts({"input_ids": texts(), "labels": [[IGNORE, *text[1:]] for text in texts()]}, PAD)
    together = packed(texts(), CAPACITY, PAD)
    assert len(together.lengths) == 3, "full rows"
    loss, gradients = loss_and_gradients(model, params, together)
    expected, expected_gradients = loss_and_gradients(model, params, alone)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), gradients, expected_gradients)


def test_segments_are_checked():
    model, params = tiny("GPT2LMHeadModel")
    ids = jnp.ones((2, 4), jnp.int32)
    with pytest.raises(ValueError, match="segment_ids has shape"):
        model.apply({"params": params}, ids, segment_ids=ids[:1])
    with pytest.raises(ValueError, match="without a cache"):
        model.apply({"params": params}, ids, segment_ids=ids, cache=model.init_cache(2, 8))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 10), max_size=40))
def test_rows_hold_every_text_once_and_no_two_fit_into_one(lengths):
    rows = pack(lengths, 10)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    sizes = sorted(sum(lengths[index] for index in row) for row in rows)
    assert all(size <= 10 for size in sizes) and (len(sizes) < 2 or sizes[0] + sizes[1] > 10)
