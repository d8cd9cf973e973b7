"""Decoding in pieces, against the reference's own cache (docs/parity.md, G10)."""

import dataclasses

import jax
import numpy as np
import pytest
from support.arrays import ids, numbers
from support.reference import as_torch, compare, pair
from support.tiny import tiny

# Few lengths in many orders: each length is one compilation.
CHUNKS = [(5, 1, 1), (1, 5, 1)]
CAPACITY = 9


def with_step(both):
    """The pair, and one compiled step that all tests of the module share."""

    @jax.jit
    def step(params, cache, inputs):
        sides = {"output_hidden_states": True, "output_attentions": True}
        return both.model.apply({"params": params}, **inputs, **sides, cache=cache)

    return both, step


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return with_step(pair("GPT2LMHeadModel", tmp_path_factory.mktemp("plain")))


@pytest.fixture(scope="module")
def crossed(tmp_path_factory):
    return with_step(pair("GPT2LMHeadModel", tmp_path_factory.mktemp("crossed"), add_cross_attention=True))


def pieces(inputs, chunks):
    start = 0
    for count in chunks:
        yield {name: value[:, start : start + count] for name, value in inputs.items()}
        start += count


def our_steps(stepper, inputs, chunks, first=None, **every):
    """One output per chunk; `first` are keywords of the first call only, `every` of all."""
    both, step = stepper
    cache, seen, outs = both.model.init_cache(len(inputs["input_ids"]), CAPACITY), 0, []
    for i, part in enumerate(pieces(inputs, chunks)):
        out = step(both.params, cache, {**part, **every, **(first or {} if i == 0 else {})})
        cache, seen = out.cache, seen + part["input_ids"].shape[1]
        # Our cache has room for all tokens; the reference's attentions end at those seen so far.
        outs.append(dataclasses.replace(out, attentions=out.attentions[..., :seen], cache=None))
    assert int(cache.length) == seen
    return outs


def their_steps(stepper, inputs, chunks, **every):
    past, seen, outs = None, 0, []
    for part in pieces(inputs, chunks):
        seen += part["input_ids"].shape[1]
        if "attention_mask" in part:  # the reference wants the mask of the past too
            part["attention_mask"] = inputs["attention_mask"][:, :seen]
        part = {name: as_torch(value) for name, value in {**part, **every}.items()}
        out = stepper[0].reference(
            **part, past_key_values=past, use_cache=True, output_hidden_states=True, output_attentions=True
        )
        past = out.past_key_values
        outs.append({name: value for name, value in out.items() if name != "past_key_values"})
    return outs


@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
@pytest.mark.parity("G10")
def test_every_step_gives_the_states_and_attentions_of_the_reference(plain, chunks):
    inputs = {"input_ids": ids((2, sum(chunks)))}
    for got, expected in zip(our_steps(plain, inputs, chunks), their_steps(plain, inputs, chunks), strict=True):
        compare(got, expected)


@pytest.fixture(scope="module")
def left_padded():
    mask = np.ones((2, 7), int)
    mask[0, :3] = 0
    positions = np.where(mask, np.cumsum(mask, 1) - 1, 1)
    return {"input_ids": np.where(mask, ids((2, 7)), 0), "attention_mask": mask, "position_ids": positions}


@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
@pytest.mark.parity("G10")
def test_left_padded_prompts_with_positions(plain, left_padded, chunks):
    steps = our_steps(plain, left_padded, chunks), their_steps(plain, left_padded, chunks)
    for got, expected, part in zip(*steps, pieces(left_padded, chunks), strict=True):
        compare(got, expected, only=part["attention_mask"].astype(bool))


@pytest.mark.parity("G10")
def test_mask_of_the_whole_cache_means_the_same(plain, left_padded):
    inputs = dict(left_padded)
    whole = np.pad(inputs.pop("attention_mask"), ((0, 0), (0, CAPACITY - 7)), constant_values=1)
    in_parts = our_steps(plain, left_padded, CHUNKS[0])
    for a, b in zip(in_parts, our_steps(plain, inputs, CHUNKS[0], attention_mask=whole), strict=True):
        np.testing.assert_array_equal(a.logits, b.logits)


@pytest.mark.parametrize("again", [False, True], ids=["states-once", "states-at-every-step"])
@pytest.mark.parity("G7", "G10")
def test_cross_keys_are_computed_once_and_kept(crossed, again):
    chunks, mask = CHUNKS[0], np.array([[1, 1, 0, 0], [0, 1, 1, 1]])
    inputs, states = {"input_ids": ids((2, 7))}, {"encoder_hidden_states": numbers((2, 4, 32))}
    first, every = ({}, states) if again else (states, {})
    got = our_steps(crossed, inputs, chunks, first=first, encoder_attention_mask=mask, **every)
    expected = their_steps(crossed, inputs, chunks, encoder_attention_mask=mask, **states)
    for mine, theirs in zip(got, expected, strict=True):
        compare(mine, theirs)


@pytest.mark.parity("G7", "G10")
def test_three_dimensional_cross_mask_a_chunk_at_a_time(crossed):
    states = {"encoder_hidden_states": numbers((2, 4, 32))}
    inputs = {"input_ids": ids((2, 7)), "encoder_attention_mask": np.random.default_rng(0).integers(0, 2, (2, 7, 4))}
    got = our_steps(crossed, inputs, CHUNKS[0], first=states)
    for mine, theirs in zip(got, their_steps(crossed, inputs, CHUNKS[0], **states), strict=True):
        compare(mine, theirs)


@pytest.mark.parity("G10")
def test_classification_reads_the_last_token_of_the_new_ones(tmp_path):
    stepper = with_step(pair("GPT2ForSequenceClassification", tmp_path, num_labels=3))
    inputs, chunks = {"input_ids": ids((2, 6))}, (3, 3)
    for got, expected in zip(our_steps(stepper, inputs, chunks), their_steps(stepper, inputs, chunks), strict=True):
        compare(got, expected)


@pytest.mark.parametrize("name", ["GPT2ForTokenClassification", "GPT2ForQuestionAnswering"])
def test_heads_without_a_field_for_the_cache_refuse_one(name):
    model, params = tiny(name)
    with pytest.raises(ValueError, match="takes no cache"):
        model.apply({"params": params}, ids((1, 4)), cache=model.init_cache(1, 4))
