"""The decoder of BART and LED in pieces, against the reference's cache and one pass (docs/parity.md, A19, L14)."""

import dataclasses

import jax
import numpy as np
import pytest
import torch
from support.arrays import ids
from support.bart_inputs import EVERYTHING, MASK, PADDED
from support.reference import compare, ours, pair
from support.tiny import tiny

import jaxmodels as jm

T, CAPACITY = 5, 7
TOKENS = ids((2, T), seed=3, low=3)
CHUNKS = [(3, 1, 1), (1, 3, 1)]


@pytest.fixture(scope="module", params=["Bart", pytest.param("LED", marks=pytest.mark.slow)])
def both(request, tmp_path_factory):
    return pair(f"{request.param}ForConditionalGeneration", tmp_path_factory.mktemp("cache"), decoder_layers=3)


@pytest.fixture(scope="module")
def step(both):
    """One compiled step of the decoder that all tests share; encoder states only where there are some."""

    @jax.jit
    def run(cache, inputs):
        return both.model.apply({"params": both.params}, **inputs, **EVERYTHING, cache=cache, method="decode")

    return run


@pytest.fixture(scope="module")
def encoded(both):
    encode = jax.jit(lambda p: both.model.apply({"params": p}, PADDED, attention_mask=MASK, method="encode"))
    return encode(both.params).last_hidden_state


def in_pieces(both, step, encoded, chunks, mask=None, again=False):
    """One output per chunk. The encoder's states are given once; later steps read their projections in the cache."""
    mask = np.ones((2, T), int) if mask is None else mask
    cache, seen, outs = both.model.init_cache(2, CAPACITY), 0, []
    for count in chunks:
        part = {"decoder_input_ids": TOKENS[:, seen : seen + count], "encoder_attention_mask": MASK}
        part["decoder_attention_mask"] = mask[:, seen : seen + count]
        if not seen:
            part["encoder_hidden_states"] = encoded
        elif again:
            part["encoder_hidden_states"] = np.full_like(encoded, np.nan)
        out = step(cache, part)
        cache, seen = out.cache, seen + count
        outs.append(dataclasses.replace(out, attentions=out.attentions[..., :seen], cache=None))
    assert int(cache.length) == T
    return outs


@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
@pytest.mark.parity("A19")
def test_every_step_gives_the_reference_s_states_and_attentions(both, step, encoded, chunks):
    past, start = None, 0
    for got, count in zip(in_pieces(both, step, encoded, chunks), chunks, strict=True):
        expected = both.reference(
            encoder_outputs=(torch.tensor(np.asarray(encoded)),),
            attention_mask=torch.tensor(MASK),
            decoder_input_ids=torch.tensor(TOKENS[:, start : start + count]),
            past_key_values=past,
            use_cache=True,
            **EVERYTHING,
        )
        past, start = expected.past_key_values, start + count
        names = {"decoder_hidden_states": "hidden_states", "decoder_attentions": "attentions"}
        fields = ("logits", "decoder_hidden_states", "decoder_attentions", "cross_attentions")
        compare(got, {names.get(name, name): expected[name] for name in fields})


@pytest.fixture(scope="module")
def one_pass(both, encoded):
    def logits(mask):
        inputs = {"attention_mask": MASK, "decoder_input_ids": TOKENS, "decoder_attention_mask": mask}
        return ours(both, encoder_outputs=(np.asarray(encoded),), **inputs).logits

    return logits


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "left padded"])
@pytest.mark.parity("A19")
def test_every_chunking_gives_the_logits_of_one_pass(both, step, encoded, one_pass, padded):
    """The reference's one-token step ignores the decoder's mask (docs/parity.md, note 26); here it holds."""
    mask = np.ones((2, T), int)
    mask[1, :2] = 1 - padded
    whole = one_pass(mask)
    for chunks in (*CHUNKS, (1,) * T, (3, 1, 1)):
        outs = in_pieces(both, step, encoded, chunks, mask)
        got = np.concatenate([out.logits for out in outs], axis=1)
        np.testing.assert_allclose(got[mask == 1], whole[mask == 1], atol=2e-5, err_msg=str(chunks))


@pytest.mark.parity("A19")
def test_cross_keys_and_values_are_computed_once(both, step, encoded):
    """What comes for the encoder's states later is not looked at, and need not come."""
    once, again = (in_pieces(both, step, encoded, CHUNKS[0], again=again) for again in (False, True))
    for a, b in zip(once, again, strict=True):
        np.testing.assert_array_equal(a.logits, b.logits)


@pytest.mark.parity("A19")
def test_the_call_decodes_over_a_cache_without_the_encoder_s_inputs(both, step, encoded):
    """The first call encodes; later ones give the cache only, and the encoder's mask."""
    cache, variables, logits = both.model.init_cache(2, CAPACITY), {"params": both.params}, []
    for i, part in enumerate(np.split(TOKENS, [3], axis=1)):
        source = {"input_ids": PADDED} if i == 0 else {}
        out = jax.jit(
            lambda cache, part, source=source: both.model.apply(
                variables, **source, attention_mask=MASK, decoder_input_ids=part, cache=cache
            )
        )(cache, part)
        cache = out.cache
        assert ("encoder_last_hidden_state" in out) == (i == 0)
        logits.append(out.logits)
    expected = [out.logits for out in in_pieces(both, step, encoded, CHUNKS[0])]
    np.testing.assert_allclose(np.concatenate(logits, axis=1), np.concatenate(expected, axis=1), atol=2e-5)


@pytest.mark.parametrize("name", ["BartModel", "LEDForConditionalGeneration"])
def test_cache_has_the_decoder_s_layers_and_heads(name):
    model, _ = tiny(name, decoder_layers=3, choices={"dtype": "bfloat16"})
    cache = model.init_cache(2, 5)
    assert len(cache.layers) == 3
    assert cache.layers[0].past.key.shape == (2, 8, 4, 5) and cache.layers[0].past.key.dtype == "bfloat16"


def test_a_full_cache_is_refused_and_traced_gives_nan(both, step, encoded):
    cache = both.model.init_cache(2, 4)
    part = {"decoder_input_ids": TOKENS[:, :3], "encoder_hidden_states": encoded, "encoder_attention_mask": MASK}
    first = step(cache, {**part, "decoder_attention_mask": np.ones((2, 3), int)})
    cache = first.cache
    assert np.isfinite(first.logits).all()
    del part["encoder_hidden_states"]
    assert np.isnan(step(cache, {**part, "decoder_attention_mask": np.ones((2, 3), int)}).logits).all()
    with pytest.raises(ValueError, match="4 slots, 3 used, and 3 more"):
        both.model.apply({"params": both.params}, **part, cache=cache, method="decode")


def test_positions_beyond_the_table_are_refused_and_traced_give_nan(both, step, encoded):
    """A cache may be longer than the table of positions; the tokens may not."""
    cache = dataclasses.replace(both.model.init_cache(2, 40), length=np.int32(23))
    part = {"decoder_input_ids": TOKENS[:, :3], "encoder_hidden_states": encoded, "encoder_attention_mask": MASK}
    with pytest.raises(ValueError, match="26 tokens are more than the 24 positions"):
        both.model.apply({"params": both.params}, **part, cache=cache, method="decode")
    logits = step(cache, {**part, "decoder_attention_mask": np.ones((2, 3), int)}).logits
    assert np.isnan(logits[:, 1:]).all()


@pytest.mark.parametrize("cached", [False, True])
def test_decoding_without_states_anywhere_is_refused(both, cached):
    cache = {"cache": both.model.init_cache(2, CAPACITY)} if cached else {}
    with pytest.raises(ValueError, match="needs encoder_hidden_states"):
        both.model.apply({"params": both.params}, TOKENS, **cache, method="decode")


@pytest.mark.parity("C3")
def test_a_step_s_tuple_holds_the_cache(both, encoded):
    cache = both.model.init_cache(2, CAPACITY)
    inputs = {"encoder_hidden_states": encoded, "cache": cache, "return_dict": False}
    out = both.model.apply({"params": both.params}, TOKENS[:, :3], **inputs, method="decode")
    assert len(out) == 2 and isinstance(out[1], jm.layers.cache.Cache)
