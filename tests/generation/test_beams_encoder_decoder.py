"""Beam search of encoder-decoders matches the reference (docs/parity.md, N5, N10, A19, L14)."""

import numpy as np
import pytest
from support.diverse_models import assert_equal_beams, frequent_ids, generate, padded, random_ids, reference_generate

PAD, LENGTHS = 4, [9, 4, 7]


@pytest.fixture(params=["bart", "led", "t5"])
def pair(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def batch():
    ids, mask = padded(random_ids(3, 9, seed=2), LENGTHS, PAD, "right")
    return {"ids": ids, "attention_mask": mask}


def agree(pair, batch, **options):
    options = {"max_new_tokens": 16, "pad_token_id": PAD, "num_beams": 3, "early_stopping": True, **options}
    actual = generate(pair, **batch, **options)
    assert_equal_beams(actual, reference_generate(pair, **batch, **options))
    return np.asarray(actual.sequences)


@pytest.mark.parity("A19", "L14", "N5")
def test_ids_and_scores_of_padded_inputs(pair, batch):
    ended = set()
    for eos in frequent_ids(pair, **batch)[:3]:
        for penalty in (0.0, 1.0, 2.0):
            actual = agree(pair, batch, eos_token_id=eos, length_penalty=penalty, num_return_sequences=3)
            ended.add(bool((actual[:, -1] == PAD).any()))
    assert True in ended


@pytest.mark.slow
@pytest.mark.parity("N5")
def test_early_stopping_never_with_several_eos_ids(bart, batch):
    for penalty in (0.0, 1.0):
        eos = frequent_ids(bart, **batch)[:2]
        agree(bart, batch, eos_token_id=eos, length_penalty=penalty, num_beams=4, early_stopping="never")


@pytest.mark.parity("A19")
def test_forced_first_and_last_ids(bart, batch):
    """All beams but one start at -1e9, and forced tokens must not activate them."""
    eos, first, last = (frequent_ids(bart, **batch)[i] for i in (9, 5, 6))
    forced = {"forced_bos_token_id": first, "forced_eos_token_id": last}
    actual = agree(bart, batch, eos_token_id=eos, num_return_sequences=3, **forced)
    assert (actual[:, 1] == first).all() and (actual[:, 16] == last).any()


@pytest.mark.slow
@pytest.mark.parity("N5")
def test_decoder_input_ids_of_several_tokens(bart, batch):
    prefix = random_ids(3, 3, seed=1)
    eos = frequent_ids(bart, **batch)[1]
    actual = agree(bart, batch, decoder_input_ids=prefix, eos_token_id=eos, max_new_tokens=10)
    np.testing.assert_array_equal(actual[:, 1:4], prefix)


@pytest.mark.slow
@pytest.mark.parity("L14")
def test_global_tokens_reach_every_beam(led, batch):
    flags = np.zeros_like(batch["ids"])
    flags[:, 0] = flags[0, 5] = 1
    eos = frequent_ids(led, **batch)[0]
    actual = agree(led, {**batch, "global_attention_mask": flags}, eos_token_id=eos)
    assert not np.array_equal(actual, agree(led, batch, eos_token_id=eos))


@pytest.mark.slow
def test_encoder_outputs_replace_the_encoder(bart, batch):
    eos = frequent_ids(bart, **batch)[0]
    options = {"num_beams": 3, "early_stopping": True, "eos_token_id": eos, "max_new_tokens": 16}
    states = bart.model.apply(
        {"params": bart.params}, batch["ids"], attention_mask=batch["attention_mask"], method="encode"
    )
    actual = generate(bart, **batch, encoder_outputs=states, **options)
    expected = generate(bart, **batch, **options)
    np.testing.assert_array_equal(actual.sequences, expected.sequences)
    np.testing.assert_allclose(actual.sequences_scores, expected.sequences_scores, rtol=1e-5)
