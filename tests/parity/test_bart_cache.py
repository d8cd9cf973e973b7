"""The decoder of BART and LED in pieces, against the reference's cache and one pass (docs/parity.md, A19, L14)."""

import dataclasses

import numpy as np
import pytest
from support.arrays import ids
from support.bart_inputs import MASK, PADDED
from support.decoder_pieces import Pieces
from support.reference import actual_output, pair
from support.tiny import tiny

import jaxmodels as jm

T, CAPACITY = 5, 7
TOKENS = ids((2, T), seed=3, low=3)
CHUNKS = [(3, 1, 1), (1, 3, 1)]


@pytest.fixture(scope="module", params=["Bart", pytest.param("LED", marks=pytest.mark.slow)])
def both(request, tmp_path_factory):
    return pair(f"{request.param}ForConditionalGeneration", tmp_path_factory.mktemp("cache"), decoder_layers=3)


@pytest.fixture(scope="module")
def pieces(both):
    return Pieces(both, PADDED, MASK, TOKENS, CAPACITY)


@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
@pytest.mark.parity("A19")
def test_every_step_gives_the_reference_s_states_and_attentions(pieces, chunks):
    pieces.check_steps(chunks)


@pytest.fixture(scope="module")
def one_pass(both, pieces):
    def logits(mask):
        inputs = {"attention_mask": MASK, "decoder_input_ids": TOKENS, "decoder_attention_mask": mask}
        return actual_output(both, encoder_outputs=(np.asarray(pieces.encoded),), **inputs).logits

    return logits


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "left padded"])
@pytest.mark.parity("A19")
def test_every_chunking_gives_the_logits_of_one_pass(pieces, one_pass, padded):
    """The reference's one-token step ignores the decoder's mask (docs/parity.md, note 26); here it holds."""
    mask = np.ones((2, T), int)
    mask[1, :2] = 1 - padded
    whole = one_pass(mask)
    for chunks in (*CHUNKS, (1,) * T, (3, 1, 1)):
        outs = pieces.run(chunks, mask)
        got = np.concatenate([out.logits for out in outs], axis=1)
        np.testing.assert_allclose(got[mask == 1], whole[mask == 1], atol=2e-5, err_msg=str(chunks))


@pytest.mark.parity("A19")
def test_cross_keys_and_values_are_computed_once(pieces):
    """What comes for the encoder's states later is not looked at, and need not come."""
    once, again = (pieces.run(CHUNKS[0], again=again) for again in (False, True))
    for a, b in zip(once, again, strict=True):
        np.testing.assert_array_equal(a.logits, b.logits)


@pytest.mark.parity("A19")
def test_the_call_decodes_over_a_cache_without_the_encoder_s_inputs(pieces):
    pieces.check_call(CHUNKS[0])


@pytest.mark.parametrize("name", ["BartModel", "LEDForConditionalGeneration"])
def test_cache_has_the_decoder_s_layers_and_heads(name):
    model, _ = tiny(name, decoder_layers=3, choices={"dtype": "bfloat16"})
    cache = model.init_cache(2, 5)
    assert len(cache.layers) == 3
    assert cache.layers[0].past.key.shape == (2, 8, 4, 5) and cache.layers[0].past.key.dtype == "bfloat16"


def test_a_full_cache_is_refused_and_traced_gives_nan(both, pieces):
    cache = both.model.init_cache(2, 4)
    part = {"decoder_input_ids": TOKENS[:, :3], "encoder_hidden_states": pieces.encoded, "encoder_attention_mask": MASK}
    first = pieces.step(cache, {**part, "decoder_attention_mask": np.ones((2, 3), int)})
    cache = first.cache
    assert np.isfinite(first.logits).all()
    del part["encoder_hidden_states"]
    assert np.isnan(pieces.step(cache, {**part, "decoder_attention_mask": np.ones((2, 3), int)}).logits).all()
    with pytest.raises(ValueError, match="4 slots, 3 used, and 3 more"):
        both.model.apply({"params": both.params}, **part, cache=cache, method="decode")


def test_positions_beyond_the_table_are_refused_and_traced_give_nan(both, pieces):
    """A cache may be longer than the table of positions; the tokens may not."""
    cache = dataclasses.replace(both.model.init_cache(2, 40), length=np.int32(23))
    part = {"decoder_input_ids": TOKENS[:, :3], "encoder_hidden_states": pieces.encoded, "encoder_attention_mask": MASK}
    with pytest.raises(ValueError, match="26 tokens are more than the 24 positions"):
        both.model.apply({"params": both.params}, **part, cache=cache, method="decode")
    logits = pieces.step(cache, {**part, "decoder_attention_mask": np.ones((2, 3), int)}).logits
    assert np.isnan(logits[:, 1:]).all()


@pytest.mark.parametrize("cached", [False, True])
def test_decoding_without_states_anywhere_is_refused(both, cached):
    cache = {"cache": both.model.init_cache(2, CAPACITY)} if cached else {}
    with pytest.raises(ValueError, match="needs encoder_hidden_states"):
        both.model.apply({"params": both.params}, TOKENS, **cache, method="decode")


@pytest.mark.parity("C3")
def test_a_step_s_tuple_holds_the_cache(both, pieces):
    cache = both.model.init_cache(2, CAPACITY)
    inputs = {"encoder_hidden_states": pieces.encoded, "cache": cache, "return_dict": False}
    out = both.model.apply({"params": both.params}, TOKENS[:, :3], **inputs, method="decode")
    assert len(out) == 2 and isinstance(out[1], jm.layers.cache.Cache)
