"""Greedy decoding of BART and LED gives the reference's ids (docs/parity.md, N2, N13, N14, A19, L14)."""

import jax
import numpy as np
import pytest
from support.arrays import flags
from support.lively import UNHEARD, ours, padded, theirs

import jaxmodels as jm
from jaxmodels.generation import recompiles
from jaxmodels.generation.encoder_decoder import beginning_of

PAD, START = 1, 2


# Three rows, up to 32 tokens and one eos everywhere: most calls share their program.
def texts(length, seed=0, rows=3):
    return np.random.default_rng(seed).integers(3, 67, (rows, length))


def right_padded(ids, *lengths):
    return padded(ids, list(lengths), PAD, "right")


def generated(both, ids, **options):
    return np.asarray(ours(both, ids, **options).sequences)


def agree(both, ids, slots=None, **options):
    """slots: room for global tokens, of which the reference knows nothing."""
    got = generated(both, ids, **options, **({} if slots is None else {"max_global_tokens": slots}))
    np.testing.assert_array_equal(got, theirs(both, ids, **options).sequences)
    return got


@pytest.mark.parametrize("length", [1, 7, 32])
@pytest.mark.parity("A19", "L14")
def test_ids_of_any_input_length(both, length):
    got = agree(both, texts(length, seed=length), max_new_tokens=16)
    assert (got[:, 0] == START).all()
    assert len({tuple(row) for row in got.tolist()}) == 3
    assert length == 1 or max(len(set(row)) for row in got.tolist()) > 3


@pytest.mark.parity("A19", "L14")
def test_right_padded_inputs_with_a_mask_and_inferred(both):
    ids, mask = right_padded(texts(9), 9, 4, 2)
    got = agree(both, ids, attention_mask=mask, max_new_tokens=10)
    np.testing.assert_array_equal(generated(both, ids, max_new_tokens=10), got)


GLOBALS = {"the first": ((0,), (0,), (0,)), "scattered": ((0, 5, 8), (), (1,)), "none": ((), (), ())}


@pytest.mark.parametrize("name", GLOBALS)
@pytest.mark.parity("L14")
def test_global_attention_reaches_the_encoder(name, led):
    ids, mask = right_padded(texts(9, seed=2), 9, 4, 7)
    inputs = {"attention_mask": mask, "max_new_tokens": 16}
    got = agree(led, ids, slots=4, global_attention_mask=flags(9, *GLOBALS[name]), **inputs)
    assert np.array_equal(got, generated(led, ids, **inputs)) == (name == "none"), "global tokens make a difference"


@pytest.mark.parity("L14")
def test_without_a_number_there_is_room_for_the_next_power_of_two(led):
    def room(*rows, model=led.model, **options):
        return dict(model.encoder_inputs({"global_attention_mask": flags(9, *rows), **options})[1])

    for count, slots in ((0, 0), (1, 1), (2, 2), (3, 4), (5, 8), (8, 8)):
        assert room((), range(count)) == {"max_global_tokens": slots}
    limited = led.model.clone(max_global_tokens=3)
    assert room((0,), model=limited) == {"max_global_tokens": 3}
    assert room((0,), model=limited, max_global_tokens=5) == {"max_global_tokens": 5}
    assert led.model.encoder_inputs({}) == ({}, ())


def test_decoder_input_ids_follow_the_start_id_or_begin_with_it(bart):
    ids, own = texts(6), texts(3, seed=1)
    got = agree(bart, ids, decoder_input_ids=own, max_new_tokens=8)
    started = np.pad(own, ((0, 0), (1, 0)), constant_values=START)
    np.testing.assert_array_equal(got[:, :4], started)
    np.testing.assert_array_equal(agree(bart, ids, decoder_input_ids=started, max_new_tokens=8), got)


def test_decoder_input_ids_of_which_some_begin_with_the_start_id_are_left_as_they_are(bart):
    own = texts(4, seed=1)
    own[1, 0] = START
    got = agree(bart, texts(6), decoder_input_ids=own, max_new_tokens=8)
    np.testing.assert_array_equal(got[:, :4], own)


@pytest.mark.parity("N2")
def test_max_length_counts_what_the_decoder_starts_with(bart):
    ids, own = texts(6), texts(3, seed=1)
    assert agree(bart, ids, max_length=9).shape == (3, 9)
    assert agree(bart, ids, max_length=9, decoder_input_ids=own).shape == (3, 9)
    assert generated(bart, ids).shape == (3, 20), "the default of 4.37; 4.57 adds the beginning to it"


@pytest.mark.parity("A19")
def test_forced_first_and_last_ids(both):
    ids = texts(6, seed=5)
    got = agree(both, ids, forced_bos_token_id=7, forced_eos_token_id=9, max_new_tokens=6)
    assert (got[:, 1] == 7).all() and (got[:, 6] == 9).all()
    one = agree(both, ids, forced_bos_token_id=7, forced_eos_token_id=9, max_new_tokens=1)
    assert (one[:, 1] == 9).all()


@pytest.mark.parity("A19")
def test_a_first_id_is_forced_after_a_beginning_of_one_id_only(bart):
    got = agree(bart, texts(6), forced_bos_token_id=7, decoder_input_ids=texts(3, seed=1), max_new_tokens=4)
    assert not (got[:, 4] == 7).all()


@pytest.mark.parity("A19")
def test_bart_forces_its_last_id_by_default(bart, led):
    got = generated(bart, texts(6), max_new_tokens=5, eos_token_id=UNHEARD)
    assert (got[:, -1] == 2).all()
    got = generated(led, texts(6), max_new_tokens=5, eos_token_id=UNHEARD)
    assert not (got[:, -1] == 2).any()


@pytest.mark.parity("N13")
def test_several_eos_ids_end_rows_and_the_rest_is_pad(led):
    ids = texts(6, seed=3)
    free = generated(led, ids, max_new_tokens=12, eos_token_id=UNHEARD)
    eos = sorted({int(free[0, 3]), int(free[1, 6])})  # ids that the model does produce
    got = agree(led, ids, max_new_tokens=12, eos_token_id=eos)
    ended = np.isin(got[0], eos)
    assert ended.any() and (got[0, ended.argmax() + 1 :] == PAD).all()


def test_a_row_is_generated_the_same_alone_and_in_a_padded_batch(led):
    lengths, where = (9, 4, 7), ((0, 5, 8), (), (1,))
    ids, mask = right_padded(texts(9, seed=4), *lengths)
    options = {"max_new_tokens": 10, "eos_token_id": UNHEARD, "max_global_tokens": 4}
    batch = generated(led, ids, attention_mask=mask, global_attention_mask=flags(9, *where), **options)
    for row, length in enumerate(lengths):
        own = flags(length, where[row])
        alone = generated(led, ids[row : row + 1, :length], global_attention_mask=own, **options)
        np.testing.assert_array_equal(batch[row], alone[0])


@pytest.mark.parity("N14")
def test_the_start_id_comes_from_the_call_then_the_files_then_bos(bart, tmp_path):
    jm.save(tmp_path, bart.model, bart.params)
    (tmp_path / "generation_config.json").write_text('{"decoder_start_token_id": 5, "max_new_tokens": 3}')
    config = jm.load(tmp_path)[0].config
    neither = config.replace(decoder_start_token_id=None, bos_token_id=8, generation={})
    for given, call, start in ((config, {}, 5), (config, {"decoder_start_token_id": 6}, 6), (neither, {}, 8)):
        assert beginning_of(None, 2, jm.GenerationConfig.merge(given, None, call), 67).tolist() == [[start], [start]]
    assert jm.GenerationConfig.merge(config, None, {}).max_new_tokens == 3
    neither = config.replace(decoder_start_token_id=None, bos_token_id=None, generation={})
    with pytest.raises(ValueError, match="the decoder needs a first id, .* pass one in the call"):
        jm.generate(bart.model.clone(config=neither), bart.params, texts(4))


def programs(both, calls) -> int:
    """How many decoding loops were compiled during the calls."""
    before = recompiles.compiled()
    for ids, options in calls:
        jm.generate(both.model, both.params, ids, **options)
    return recompiles.compiled() - before


def test_lengths_and_limits_in_a_bucket_share_one_program(bart):
    assert programs(bart, [(texts(20), {"max_new_tokens": 20})]) <= 1
    others = [(texts(length), {"max_new_tokens": 3 + length // 2, "eos_token_id": 7}) for length in (1, 5, 12, 25, 32)]
    others += [(right_padded(texts(9), 9, 3, 5)[0], {"forced_eos_token_id": 8, "max_length": 30})]
    assert programs(bart, others) == 0
    assert programs(bart, [(texts(33), {"max_new_tokens": 3})]) == 1
    agree(bart, texts(40), max_new_tokens=3)


def test_places_and_numbers_of_global_tokens_share_one_program(led):
    def call(*rows, length=9, **options):
        return texts(length), {"max_new_tokens": 5, "global_attention_mask": flags(length, *rows, ()), **options}

    assert programs(led, [call((0,), (3, 4), max_global_tokens=4)]) <= 1
    others = [call((), (8,)), call(range(4), (0,)), call((0, 11), (), length=12)]
    assert programs(led, [(ids, {**options, "max_global_tokens": 4}) for ids, options in others]) == 0
    assert programs(led, [call((0, 1, 2), ()), call((0, 1, 2, 3), (0, 4, 7))]) == 0, "without a number: a power of two"


@pytest.mark.slow
def test_a_text_near_the_end_of_the_table_is_padded_to_the_table_and_no_further(led):
    """The bucket of 49 to 64 tokens has 64, as many as there are positions."""
    for length in (52, 64):
        agree(led, texts(length), max_new_tokens=3)


def test_the_callback_sees_every_column_in_order(led):
    columns, ids = [], texts(7)
    got = generated(led, ids, max_new_tokens=12, streamer=columns.append)
    assert all(isinstance(column, np.ndarray) and column.shape == (3,) for column in columns)
    np.testing.assert_array_equal(np.stack(columns, axis=1), got[:, 1:])
    np.testing.assert_array_equal(generated(led, ids, max_new_tokens=12), got)


@pytest.mark.slow
def test_sampling_gives_the_same_text_for_the_same_key(bart):
    sampled = {"max_new_tokens": 10, "do_sample": True, "top_k": 5}
    one, again, other = (generated(bart, texts(6), key=jax.random.key(seed), **sampled) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


@pytest.mark.slow
def test_up_to_the_last_position_and_not_beyond(bart):
    ids = texts(5)
    agree(bart, ids, max_new_tokens=47, eos_token_id=UNHEARD)
    with pytest.raises(ValueError, match="a prompt of 1 tokens and 48 new ones are more than the 48 positions"):
        generated(bart, ids, max_new_tokens=48)
    with pytest.raises(ValueError, match="a prompt of 4 tokens and 45 new ones"):
        generated(bart, ids, decoder_input_ids=texts(3), max_new_tokens=45)


def test_encoder_outputs_in_place_of_a_second_pass_of_the_encoder(led):
    ids, mask = right_padded(texts(9, seed=2), 9, 4, 7)
    inputs = {"attention_mask": mask, "global_attention_mask": flags(9, *GLOBALS["scattered"])}
    encoded = jax.jit(lambda p: led.model.apply({"params": p}, ids, **inputs, method="encode"))(led.params)
    got = generated(led, ids, attention_mask=mask, encoder_outputs=encoded, max_new_tokens=16)
    np.testing.assert_array_equal(got, generated(led, ids, **inputs, max_global_tokens=4, max_new_tokens=16))
    with pytest.raises(
        ValueError, match=r"encoder_outputs has states \[B,T,D\] of input_ids \(3, 8\), got \(3, 9, 32\)"
    ):
        generated(led, ids[:, :8], encoder_outputs=encoded)
