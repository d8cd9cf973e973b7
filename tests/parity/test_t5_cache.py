"""T5's decoder in pieces: against the reference's own cache, and against one pass (docs/parity.md, A20)."""

import numpy as np
import pytest
from support.arrays import ids
from support.decoder_pieces import Pieces
from support.reference import actual_output
from support.t5_pairs import MASK, PADDED, t5_pair
from support.tiny import tiny

T, CAPACITY = 12, 14
TOKENS = ids((2, T), seed=3)
CHUNKS = [(9, 1, 1, 1), (1, 9, 1, 1)]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    return t5_pair("T5ForConditionalGeneration", tmp_path_factory.mktemp("cache"), num_decoder_layers=3)


@pytest.fixture(scope="module")
def pieces(both):
    return Pieces(both, PADDED, MASK, TOKENS, CAPACITY)


@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
@pytest.mark.parity("A20")
def test_every_step_gives_the_reference_s_states_and_attentions(pieces, chunks):
    pieces.check_steps(chunks)


@pytest.mark.parametrize("chunks", [*CHUNKS, (4, 4, 4), (1,) * T], ids=str)
@pytest.mark.parametrize("padded", [False, True], ids=["whole", "left padded"])
@pytest.mark.parity("A20")
def test_every_chunking_gives_the_logits_of_one_pass(both, pieces, chunks, padded):
    mask = np.ones((2, T), int)
    mask[1, :3] = 1 - padded
    whole = actual_output(
        both,
        encoder_outputs=(np.asarray(pieces.encoded),),
        attention_mask=MASK,
        decoder_input_ids=TOKENS,
        decoder_attention_mask=mask,
    ).logits
    outs = pieces.run(chunks, mask)
    got = np.concatenate([out.logits for out in outs], axis=1)
    np.testing.assert_allclose(got[mask == 1], whole[mask == 1], atol=2e-5)


@pytest.mark.parity("A20")
def test_the_call_decodes_over_a_cache_without_the_encoder_s_inputs(pieces):
    pieces.check_call(CHUNKS[0])


def test_cache_has_the_decoder_s_layers_and_the_heads_width_of_the_config():
    model, _ = tiny("T5Model", num_decoder_layers=3, choices={"dtype": "bfloat16"})
    cache = model.init_cache(2, 5)
    assert len(cache.layers) == 3
    assert cache.layers[0].past.key.shape == (2, 4, 6, 5) and cache.layers[0].past.key.dtype == "bfloat16"


def test_a_full_cache_is_refused_and_traced_gives_nan(both, pieces):
    cache = both.model.init_cache(2, 3)
    part = {"decoder_input_ids": TOKENS[:, :2], "encoder_hidden_states": pieces.encoded, "encoder_attention_mask": MASK}
    first = pieces.step(cache, part)
    cache = first.cache
    assert np.isfinite(first.logits).all() and np.isnan(pieces.step(cache, part).logits).all()
    with pytest.raises(ValueError, match="3 slots, 2 used, and 2 more"):
        both.model.apply({"params": both.params}, **part, cache=cache, method="decode")


def test_decoding_without_states_anywhere_is_refused(both):
    with pytest.raises(ValueError, match="needs encoder_hidden_states"):
        both.model.apply({"params": both.params}, TOKENS, method="decode")
    with pytest.raises(ValueError, match="needs encoder_hidden_states"):
        both.model.apply({"params": both.params}, TOKENS, cache=both.model.init_cache(2, CAPACITY), method="decode")
