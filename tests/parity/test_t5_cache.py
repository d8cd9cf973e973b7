"""T5's decoder in pieces: against the reference's own cache, and against one pass (docs/parity.md, A20)."""

import dataclasses

import jax
import numpy as np
import pytest
import torch
from support.arrays import ids
from support.reference import compare, ours
from support.t5_pairs import EVERYTHING, MASK, PADDED, t5_pair
from support.tiny import tiny

T, CAPACITY = 12, 14
TOKENS = ids((2, T), seed=3)
EVERY_TOKEN = np.ones((2, T), int)
CHUNKS = [(9, 1, 1, 1), (1, 9, 1, 1)]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    return t5_pair("T5ForConditionalGeneration", tmp_path_factory.mktemp("cache"), num_decoder_layers=3)


@pytest.fixture(scope="module")
def step(both):
    """One compiled step of the decoder that all tests share; encoder states only where there are some."""

    @jax.jit
    def run(cache, inputs):
        return both.model.apply({"params": both.params}, **inputs, **EVERYTHING, cache=cache, method="decode")

    return run


@pytest.fixture(scope="module")
def encoded(both):
    out = both.model.apply({"params": both.params}, PADDED, attention_mask=MASK, method="encode")
    return out.last_hidden_state


def in_pieces(both, step, encoded, chunks, mask=EVERY_TOKEN):
    """One output per chunk. The encoder's states are given once; later steps read their projections in the cache."""
    cache, seen, outs = both.model.init_cache(2, CAPACITY), 0, []
    for count in chunks:
        part = {"decoder_input_ids": TOKENS[:, seen : seen + count], "encoder_attention_mask": MASK}
        part["decoder_attention_mask"] = mask[:, seen : seen + count]
        if not seen:
            part["encoder_hidden_states"] = encoded
        out = step(cache, part)
        cache, seen = out.cache, seen + count
        outs.append(dataclasses.replace(out, attentions=out.attentions[..., :seen], cache=None))
    assert int(cache.length) == T
    return outs


@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
@pytest.mark.parity("A20")
def test_every_step_gives_the_reference_s_states_and_attentions(both, step, encoded, chunks):
    past, start = None, 0
    states = (torch.tensor(np.asarray(encoded)),)
    for got, count in zip(in_pieces(both, step, encoded, chunks), chunks, strict=True):
        expected = both.reference(
            encoder_outputs=states,
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


@pytest.mark.parametrize("chunks", [*CHUNKS, (4, 4, 4), (1,) * T], ids=str)
@pytest.mark.parametrize("padded", [False, True], ids=["whole", "left padded"])
@pytest.mark.parity("A20")
def test_every_chunking_gives_the_logits_of_one_pass(both, step, encoded, chunks, padded):
    mask = EVERY_TOKEN.copy()
    mask[1, :3] = 1 - padded
    whole = ours(
        both,
        encoder_outputs=(np.asarray(encoded),),
        attention_mask=MASK,
        decoder_input_ids=TOKENS,
        decoder_attention_mask=mask,
    ).logits
    outs = in_pieces(both, step, encoded, chunks, mask)
    got = np.concatenate([out.logits for out in outs], axis=1)
    np.testing.assert_allclose(got[mask == 1], whole[mask == 1], atol=2e-5)


@pytest.mark.parity("A20")
def test_the_call_decodes_over_a_cache_without_the_encoder_s_inputs(both, step, encoded):
    """The first call encodes; later ones give the cache only, and the encoder's mask."""
    cache, variables, logits = both.model.init_cache(2, CAPACITY), {"params": both.params}, []
    for i, part in enumerate(np.split(TOKENS, [9], axis=1)):
        source = {"input_ids": PADDED} if i == 0 else {}
        out = jax.jit(
            lambda cache, part, source=source: both.model.apply(
                variables, **source, attention_mask=MASK, decoder_input_ids=part, cache=cache
            )
        )(cache, part)
        cache = out.cache
        assert ("encoder_last_hidden_state" in out) == (i == 0)
        logits.append(out.logits)
    expected = [out.logits for out in in_pieces(both, step, encoded, (9, 1, 1, 1))]
    np.testing.assert_allclose(np.concatenate(logits, axis=1), np.concatenate(expected, axis=1), atol=2e-5)


def test_cache_has_the_decoder_s_layers_and_the_heads_width_of_the_config():
    model, _ = tiny("T5Model", num_decoder_layers=3, choices={"dtype": "bfloat16"})
    cache = model.init_cache(2, 5)
    assert len(cache.layers) == 3
    assert cache.layers[0].past.key.shape == (2, 4, 6, 5) and cache.layers[0].past.key.dtype == "bfloat16"


def test_a_full_cache_is_refused_and_traced_gives_nan(both, step, encoded):
    cache = both.model.init_cache(2, 3)
    part = {"decoder_input_ids": TOKENS[:, :2], "encoder_hidden_states": encoded, "encoder_attention_mask": MASK}
    first = step(cache, part)
    cache = first.cache
    assert np.isfinite(first.logits).all() and np.isnan(step(cache, part).logits).all()
    with pytest.raises(ValueError, match="3 slots, 2 used, and 2 more"):
        both.model.apply({"params": both.params}, **part, cache=cache, method="decode")


def test_decoding_without_states_anywhere_is_refused(both):
    with pytest.raises(ValueError, match="needs encoder_hidden_states"):
        both.model.apply({"params": both.params}, TOKENS, method="decode")
    with pytest.raises(ValueError, match="needs encoder_hidden_states"):
        both.model.apply({"params": both.params}, TOKENS, cache=both.model.init_cache(2, CAPACITY), method="decode")
