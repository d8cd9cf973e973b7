"""Greedy decoding of BART and LED gives the reference's ids (PARITY N2, N13, N14, A19, L14)."""

import warnings

import jax
import numpy as np
import pytest
import torch
from parity.reference import pair

import jaxmodels as jm
from jaxmodels.generation.encoder_decoder import _run

POSITIONS = {"max_position_embeddings": 48}
LED_POSITIONS = {"max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 48}
PAD, START = 1, 2


@pytest.fixture(scope="module")
def bart(tmp_path_factory):
    return pair("BartForConditionalGeneration", tmp_path_factory.mktemp("bart"), **POSITIONS)


@pytest.fixture(scope="module")
def led(tmp_path_factory):
    return pair("LEDForConditionalGeneration", tmp_path_factory.mktemp("led"), **LED_POSITIONS)


@pytest.fixture(params=["bart", "led"])
def both(request):
    return request.getfixturevalue(request.param)


def texts(rows, length, seed=0):
    return np.random.default_rng(seed).integers(3, 67, (rows, length))


def right_padded(ids, *lengths):
    mask = (np.arange(ids.shape[1]) < np.array(lengths)[:, None]).astype(np.int64)
    return np.where(mask, ids, PAD), mask


def flags(length, *rows):
    return np.array([[int(t in row) for t in range(length)] for row in rows])


def generated(both, ids, **options):
    return np.asarray(jm.generate(both.model, both.params, ids, **options).sequences)


def reference_ids(both, ids, **options):
    arrays = {k: torch.from_numpy(v) for k, v in options.items() if isinstance(v, np.ndarray)}
    rest = {k: v for k, v in options.items() if k not in arrays}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return both.reference.generate(torch.from_numpy(ids), **arrays, do_sample=False, **rest).numpy()


def agree(both, ids, **options):
    got = generated(both, ids, **options)
    np.testing.assert_array_equal(got, reference_ids(both, ids, **options))
    return got


@pytest.mark.parametrize("length", [1, 7, 33])
def test_A19_L14_ids_of_any_input_length(both, length):
    got = agree(both, texts(2, length, seed=length), max_new_tokens=12)
    assert (got[:, 0] == START).all() and got.shape[1] <= 13


def test_right_padded_inputs_with_a_mask_and_inferred(both):
    ids, mask = right_padded(texts(3, 9), 9, 4, 2)
    got = agree(both, ids, attention_mask=mask, max_new_tokens=10)
    np.testing.assert_array_equal(generated(both, ids, max_new_tokens=10), got)


GLOBALS = {
    "the first": ((0,), (0,), (0,)),
    "scattered": ((0, 5, 8), (), (1,)),
    "none": ((), (), ()),
}


@pytest.mark.parametrize("name", GLOBALS)
def test_L14_global_attention_reaches_the_encoder(name, led):
    ids, mask = right_padded(texts(3, 9, seed=2), 9, 4, 7)
    inputs = {"attention_mask": mask, "max_new_tokens": 12}
    got = agree(led, ids, global_attention_mask=flags(9, *GLOBALS[name]), **inputs)
    plain = generated(led, ids, **inputs)
    assert np.array_equal(got, plain) == (name == "none"), "global tokens make a difference"


def test_L14_static_room_changes_nothing(led):
    """As many slots as a power of two by default; as many as the model or the call has room for."""
    ids, inputs = texts(3, 9, seed=2), {"global_attention_mask": flags(9, *GLOBALS["scattered"]), "max_new_tokens": 8}
    expected = generated(led, ids, **inputs)
    np.testing.assert_array_equal(generated(led, ids, max_global_tokens=9, **inputs), expected)
    roomy = jm.generate(led.model.clone(max_global_tokens=3), led.params, ids, **inputs).sequences
    np.testing.assert_array_equal(roomy, expected)


def test_decoder_input_ids_follow_the_start_id_or_begin_with_it(both):
    ids, own = texts(2, 6), texts(2, 3, seed=1)
    got = agree(both, ids, decoder_input_ids=own, max_new_tokens=8)
    np.testing.assert_array_equal(got[:, :4], np.pad(own, ((0, 0), (1, 0)), constant_values=START))
    started = np.pad(own, ((0, 0), (1, 0)), constant_values=START)
    np.testing.assert_array_equal(agree(both, ids, decoder_input_ids=started, max_new_tokens=8), got)


def test_N2_max_length_counts_what_the_decoder_starts_with(both):
    ids, own = texts(2, 6), texts(2, 3, seed=1)
    assert agree(both, ids, max_length=9).shape == (2, 9)
    assert agree(both, ids, max_length=9, decoder_input_ids=own).shape == (2, 9)
    assert agree(both, ids).shape == (2, 20), "the default"


def test_A19_forced_first_and_last_ids(both):
    ids = texts(2, 6, seed=5)
    got = agree(both, ids, forced_bos_token_id=7, forced_eos_token_id=9, max_new_tokens=6)
    assert (got[:, 1] == 7).all() and (got[:, 6] == 9).all()
    one = agree(both, ids, forced_bos_token_id=7, forced_eos_token_id=9, max_new_tokens=1)
    assert (one[:, 1] == 9).all()
    own = agree(both, ids, forced_bos_token_id=7, decoder_input_ids=texts(2, 2), max_new_tokens=4)
    assert not (own[:, 3] == 7).any(), "it follows a beginning of one id only"


def test_A19_bart_forces_its_last_id_by_default(bart, led):
    ids = texts(2, 6)
    assert (generated(bart, ids, max_new_tokens=5, eos_token_id=[])[:, -1] == 2).all()
    assert not (generated(led, ids, max_new_tokens=5, eos_token_id=[])[:, -1] == 2).any()


def test_N13_several_eos_ids_end_rows_and_the_rest_is_pad(both):
    ids = texts(5, 6, seed=3)
    free = generated(both, ids, max_new_tokens=12, eos_token_id=[], forced_eos_token_id=None)
    eos = sorted({int(free[0, 3]), int(free[1, 6])})  # ids that the model does produce
    got = agree(both, ids, max_new_tokens=12, eos_token_id=eos)
    ended = np.isin(got[0], eos)
    assert ended.any() and (got[0, ended.argmax() + 1 :] == PAD).all()


def test_a_row_is_generated_the_same_alone_and_in_a_padded_batch(both):
    lengths, globals = (9, 4, 7), {}
    ids, mask = right_padded(texts(3, 9, seed=4), *lengths)
    where = ((0, 5, 8), (), (1,))
    if "LED" in type(both.model).__name__:
        globals = {"global_attention_mask": flags(9, *where), "max_global_tokens": 3}
    options = {"max_new_tokens": 10, "eos_token_id": []}
    batch = generated(both, ids, attention_mask=mask, **globals, **options)
    for row, length in enumerate(lengths):
        own = {"global_attention_mask": flags(length, where[row]), "max_global_tokens": 3} if globals else {}
        alone = generated(both, ids[row : row + 1, :length], **own, **options)
        np.testing.assert_array_equal(batch[row], alone[0])


def test_N14_start_and_forced_ids_come_from_the_call_then_the_files(bart, tmp_path):
    jm.save(tmp_path, bart.model, bart.params)
    (tmp_path / "generation_config.json").write_text('{"decoder_start_token_id": 5, "max_new_tokens": 3}')
    model, params = jm.load(tmp_path)
    got = np.asarray(jm.generate(model, params, texts(1, 4)).sequences)
    assert got.shape == (1, 4) and got[0, 0] == 5
    got = np.asarray(jm.generate(model, params, texts(1, 4), decoder_start_token_id=6).sequences)
    assert got[0, 0] == 6
    config = bart.model.config.replace(decoder_start_token_id=None, bos_token_id=8)
    got = np.asarray(jm.generate(bart.model.clone(config=config), bart.params, texts(1, 4)).sequences)
    assert got[0, 0] == 8


def programs(both, calls) -> int:
    """How many decoding loops were compiled during the calls."""
    before = _run._cache_size()
    for ids, options in calls:
        jm.generate(both.model, both.params, ids, **options)
    return _run._cache_size() - before


def test_lengths_and_limits_in_a_bucket_share_one_program(both):
    warm = [(texts(2, 20), {"max_new_tokens": 20})]
    assert programs(both, warm) <= 1
    others = [(texts(2, length), {"max_new_tokens": 3 + length, "eos_token_id": 7}) for length in (1, 5, 12, 25, 32)]
    others += [(right_padded(texts(2, 9), 9, 3)[0], {"forced_bos_token_id": 8, "max_length": 30})]
    assert programs(both, others) == 0
    assert programs(both, [(texts(2, 33), {"max_new_tokens": 3})]) == 1


def test_places_and_numbers_of_global_tokens_share_one_program(led):
    def call(*rows, length=9, **options):
        return texts(2, length), {"max_new_tokens": 5, "global_attention_mask": flags(length, *rows), **options}

    assert programs(led, [call((0,), (3, 4), max_global_tokens=6)]) == 1
    others = [call((), (8,)), call(range(6), (0,)), call((0, 11), (), length=12)]
    assert programs(led, [(ids, {**options, "max_global_tokens": 6}) for ids, options in others]) == 0
    assert programs(led, [call((0, 1, 2), ())]) == 1, "without a number, the next power of two: four"
    assert programs(led, [call((0, 1, 2, 3), (0, 4, 7))]) == 0


def test_a_text_near_the_end_of_the_table_is_padded_to_the_table(led):
    """64 positions: the bucket of 50 tokens has 64, and that of LED's last ones no more than the table."""
    for length in (50, 64):
        agree(led, texts(1, length), max_new_tokens=3)


def test_the_callback_sees_every_column_in_order(both):
    columns, ids = [], texts(3, 7)
    got = generated(both, ids, max_new_tokens=12, streamer=columns.append)
    assert all(isinstance(column, np.ndarray) and column.shape == (3,) for column in columns)
    np.testing.assert_array_equal(np.stack(columns, axis=1), got[:, 1:])
    np.testing.assert_array_equal(generated(both, ids, max_new_tokens=12), got)


def test_sampling_needs_a_key_and_gives_the_same_text_for_it(bart):
    ids = texts(2, 6)
    sampled = {"max_new_tokens": 10, "do_sample": True, "top_k": 5}
    one, again, other = (generated(bart, ids, key=jax.random.key(seed), **sampled) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


def test_up_to_the_last_position_and_not_beyond(both):
    ids = texts(1, 5)
    agree(both, ids, max_new_tokens=47, eos_token_id=[5])
    with pytest.raises(ValueError, match="a prompt of 1 tokens and 48 new ones are more than the 48 positions"):
        generated(both, ids, max_new_tokens=48)
    with pytest.raises(ValueError, match="a prompt of 4 tokens and 45 new ones"):
        generated(both, ids, decoder_input_ids=texts(1, 3), max_new_tokens=45)


WORDS = texts(2, 4)
BAD = {
    "no ids": ({"ids": np.zeros((2, 0), int)}, "input_ids is an int array"),
    "no text": ({"attention_mask": np.array([[1, 1, 1, 1], [0, 0, 0, 0]])}, "row 1 of the prompts holds padding only"),
    "mask": ({"attention_mask": np.ones((2, 5), int)}, "shape of input_ids"),
    "decoder rows": ({"decoder_input_ids": WORDS[:1]}, "decoder_input_ids has a row for each of the 2 inputs, got 1"),
    "decoder id": ({"decoder_input_ids": WORDS + 66}, "decoder_input_ids holds ids from"),
    "decoder rank": ({"decoder_input_ids": WORDS[0]}, r"decoder_input_ids is an int array \[B,T\]"),
    "no decoder ids": ({"decoder_input_ids": WORDS[:, :0]}, "decoder_input_ids is an int array"),
    "start": ({"decoder_start_token_id": 67}, "decoder_start_token_id holds ids from 67 to 67"),
    "forced": ({"forced_bos_token_id": 67}, "forced_bos_token_id"),
    "unknown": ({"decoder_inputs_ids": WORDS}, "no option 'decoder_inputs_ids'"),
    "unknown mask": ({"decoder_attention_mask": WORDS}, "no option 'decoder_attention_mask'"),
    "short": ({"max_length": 1}, "nothing is left to generate"),
    "long input": ({"ids": texts(1, 65)}, "65 tokens are more than the .* positions of this model"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_by_name(name, both):
    options, message = BAD[name]
    options = {"ids": WORDS, **options}
    with pytest.raises(ValueError, match=message):
        generated(both, options.pop("ids"), **options)


BAD_GLOBALS = {
    "value": ({"global_attention_mask": flags(4, (0,), (1,)) * 2}, "global_attention_mask holds 0 and 1 .*got 2"),
    "rows": ({"global_attention_mask": flags(4, (0,))}, "global_attention_mask has the shape of input_ids"),
    "length": ({"global_attention_mask": flags(5, (0,), (1,))}, "global_attention_mask has the shape of input_ids"),
    "rank": ({"global_attention_mask": flags(4, (0,))[0]}, "global_attention_mask has the shape of input_ids"),
    "too many": (
        {"global_attention_mask": flags(4, (0, 1, 3), ()), "max_global_tokens": 2},
        "an example has 3 global tokens, and max_global_tokens=2; raise it",
    ),
}


@pytest.mark.parametrize("name", BAD_GLOBALS)
def test_bad_global_masks_are_refused_by_name(name, led):
    options, message = BAD_GLOBALS[name]
    with pytest.raises(ValueError, match=message):
        generated(led, WORDS, **options)


def test_bart_knows_no_global_tokens(bart):
    with pytest.raises(ValueError, match="no option 'global_attention_mask'"):
        generated(bart, WORDS, global_attention_mask=flags(4, (0,), (1,)))


def test_without_any_start_id_it_is_refused(bart):
    model = bart.model.clone(config=bart.model.config.replace(decoder_start_token_id=None, bos_token_id=None))
    with pytest.raises(ValueError, match="the decoder needs a first id: decoder_start_token_id or bos_token_id"):
        jm.generate(model, bart.params, WORDS)
