"""Greedy decoding of BART and LED matches the reference (docs/parity.md, N2, N13, N14, A19, L14)."""

import jax
import numpy as np
import pytest
from support.arrays import flags
from support.diverse_models import NEVER_GENERATED, generate, padded, reference_generate

import jaxmodels as jm
from jaxmodels.generation.encoder_decoder import decoder_prefix
from jaxmodels.generation.loop import num_compiled

PAD, START = 1, 2


# A batch of three, up to 32 tokens and one eos id everywhere, so that most calls share one program.
def random_ids(length, seed=0, batch=3):
    return np.random.default_rng(seed).integers(3, 67, (batch, length))


def right_padded(ids, *lengths):
    return padded(ids, list(lengths), PAD, "right")


def generated(both, ids, **options):
    return np.asarray(generate(both, ids, **options).sequences)


def agree(both, ids, slots=None, **options):
    """slots: max_global_tokens, which the reference does not have."""
    actual = generated(both, ids, **options, **({} if slots is None else {"max_global_tokens": slots}))
    np.testing.assert_array_equal(actual, reference_generate(both, ids, **options).sequences)
    return actual


@pytest.mark.parametrize("length", [1, 7, 32])
@pytest.mark.parity("A19", "L14")
def test_ids_of_any_input_length(both, length):
    actual = agree(both, random_ids(length, seed=length), max_new_tokens=16)
    assert (actual[:, 0] == START).all()
    assert len({tuple(row) for row in actual.tolist()}) == 3
    assert length == 1 or max(len(set(row)) for row in actual.tolist()) > 3


@pytest.mark.parity("A19", "L14")
def test_right_padded_inputs_with_given_and_inferred_mask(both):
    ids, mask = right_padded(random_ids(9), 9, 4, 2)
    actual = agree(both, ids, attention_mask=mask, max_new_tokens=10)
    np.testing.assert_array_equal(generated(both, ids, max_new_tokens=10), actual)


GLOBALS = {"the first": ((0,), (0,), (0,)), "scattered": ((0, 5, 8), (), (1,)), "none": ((), (), ())}


@pytest.mark.parametrize("name", GLOBALS)
@pytest.mark.parity("L14")
def test_global_attention_reaches_the_encoder(name, led):
    ids, mask = right_padded(random_ids(9, seed=2), 9, 4, 7)
    inputs = {"attention_mask": mask, "max_new_tokens": 16}
    actual = agree(led, ids, slots=4, global_attention_mask=flags(9, *GLOBALS[name]), **inputs)
    assert np.array_equal(actual, generated(led, ids, **inputs)) == (name == "none"), "global tokens make a difference"


@pytest.mark.parity("L14")
def test_global_token_slots_default_to_the_next_power_of_two(led):
    def slots(*rows, model=led.model, **options):
        return dict(model.encoder_inputs({"global_attention_mask": flags(9, *rows), **options})[1])

    for count, expected in ((0, 0), (1, 1), (2, 2), (3, 4), (5, 8), (8, 8)):
        assert slots((), range(count)) == {"max_global_tokens": expected}
    limited = led.model.clone(max_global_tokens=3)
    assert slots((0,), model=limited) == {"max_global_tokens": 3}
    assert slots((0,), model=limited, max_global_tokens=5) == {"max_global_tokens": 5}
    assert led.model.encoder_inputs({}) == ({}, ())


def test_decoder_input_ids_follow_or_contain_the_start_id(bart):
    ids, prefix = random_ids(6), random_ids(3, seed=1)
    actual = agree(bart, ids, decoder_input_ids=prefix, max_new_tokens=8)
    started = np.pad(prefix, ((0, 0), (1, 0)), constant_values=START)
    np.testing.assert_array_equal(actual[:, :4], started)
    np.testing.assert_array_equal(agree(bart, ids, decoder_input_ids=started, max_new_tokens=8), actual)


def test_decoder_input_ids_with_start_id_in_some_examples_are_unchanged(bart):
    prefix = random_ids(4, seed=1)
    prefix[1, 0] = START
    actual = agree(bart, random_ids(6), decoder_input_ids=prefix, max_new_tokens=8)
    np.testing.assert_array_equal(actual[:, :4], prefix)


@pytest.mark.parity("N2")
def test_max_length_includes_the_decoder_prefix(bart):
    ids, prefix = random_ids(6), random_ids(3, seed=1)
    assert agree(bart, ids, max_length=9).shape == (3, 9)
    assert agree(bart, ids, max_length=9, decoder_input_ids=prefix).shape == (3, 9)
    assert generated(bart, ids).shape == (3, 20), "the default of 4.37; 4.57 adds the prefix to it"


@pytest.mark.parity("A19")
def test_forced_first_and_last_ids(both):
    ids = random_ids(6, seed=5)
    actual = agree(both, ids, forced_bos_token_id=7, forced_eos_token_id=9, max_new_tokens=6)
    assert (actual[:, 1] == 7).all() and (actual[:, 6] == 9).all()
    one = agree(both, ids, forced_bos_token_id=7, forced_eos_token_id=9, max_new_tokens=1)
    assert (one[:, 1] == 9).all()


@pytest.mark.parity("A19")
def test_forced_bos_applies_only_after_a_prefix_of_one_token(bart):
    actual = agree(
        bart, random_ids(6), forced_bos_token_id=7, decoder_input_ids=random_ids(3, seed=1), max_new_tokens=4
    )
    assert not (actual[:, 4] == 7).all()


@pytest.mark.parity("A19")
def test_bart_forces_the_last_id_by_default(bart, led):
    actual = generated(bart, random_ids(6), max_new_tokens=5, eos_token_id=NEVER_GENERATED)
    assert (actual[:, -1] == 2).all()
    actual = generated(led, random_ids(6), max_new_tokens=5, eos_token_id=NEVER_GENERATED)
    assert not (actual[:, -1] == 2).any()


@pytest.mark.parity("N13")
def test_several_eos_ids_end_sequences_followed_by_padding(led):
    ids = random_ids(6, seed=3)
    free = generated(led, ids, max_new_tokens=12, eos_token_id=NEVER_GENERATED)
    eos = sorted({int(free[0, 3]), int(free[1, 6])})  # ids that the model generates
    actual = agree(led, ids, max_new_tokens=12, eos_token_id=eos)
    ended = np.isin(actual[0], eos)
    assert ended.any() and (actual[0, ended.argmax() + 1 :] == PAD).all()


def test_a_sequence_does_not_depend_on_the_batch(led):
    lengths, where = (9, 4, 7), ((0, 5, 8), (), (1,))
    ids, mask = right_padded(random_ids(9, seed=4), *lengths)
    options = {"max_new_tokens": 10, "eos_token_id": NEVER_GENERATED, "max_global_tokens": 4}
    batch = generated(led, ids, attention_mask=mask, global_attention_mask=flags(9, *where), **options)
    for row, length in enumerate(lengths):
        global_mask = flags(length, where[row])
        single = generated(led, ids[row : row + 1, :length], global_attention_mask=global_mask, **options)
        np.testing.assert_array_equal(batch[row], single[0])


@pytest.mark.parity("N14")
def test_start_id_from_call_then_file_then_bos(bart, tmp_path):
    jm.save(tmp_path, bart.model, bart.params)
    (tmp_path / "generation_config.json").write_text('{"decoder_start_token_id": 5, "max_new_tokens": 3}')
    config = jm.load(tmp_path)[0].config
    neither = config.replace(decoder_start_token_id=None, bos_token_id=8, generation={})
    for model_config, call, start in ((config, {}, 5), (config, {"decoder_start_token_id": 6}, 6), (neither, {}, 8)):
        assert decoder_prefix(None, 2, jm.GenerationConfig.merge(model_config, None, call), 67).tolist() == [
            [start],
            [start],
        ]
    assert jm.GenerationConfig.merge(config, None, {}).max_new_tokens == 3
    neither = config.replace(decoder_start_token_id=None, bos_token_id=None, generation={})
    with pytest.raises(ValueError, match="the decoder needs a start id, .* pass one to generate"):
        jm.generate(bart.model.clone(config=neither), bart.params, random_ids(4))


def programs(both, calls) -> int:
    """How many decoding loops are compiled by the calls."""
    before = num_compiled()
    for ids, options in calls:
        jm.generate(both.model, both.params, ids, **options)
    return num_compiled() - before


def test_lengths_and_limits_in_a_bucket_share_one_program(bart):
    assert programs(bart, [(random_ids(20), {"max_new_tokens": 20})]) <= 1
    others = [
        (random_ids(length), {"max_new_tokens": 3 + length // 2, "eos_token_id": 7}) for length in (1, 5, 12, 25, 32)
    ]
    others += [(right_padded(random_ids(9), 9, 3, 5)[0], {"forced_eos_token_id": 8, "max_length": 30})]
    assert programs(bart, others) == 0
    assert programs(bart, [(random_ids(33), {"max_new_tokens": 3})]) == 1
    agree(bart, random_ids(40), max_new_tokens=3)


def test_positions_and_counts_of_global_tokens_share_one_program(led):
    def call(*rows, length=9, **options):
        return random_ids(length), {"max_new_tokens": 5, "global_attention_mask": flags(length, *rows, ()), **options}

    assert programs(led, [call((0,), (3, 4), max_global_tokens=4)]) <= 1
    others = [call((), (8,)), call(range(4), (0,)), call((0, 11), (), length=12)]
    assert programs(led, [(ids, {**options, "max_global_tokens": 4}) for ids, options in others]) == 0
    assert programs(led, [call((0, 1, 2), ()), call((0, 1, 2, 3), (0, 4, 7))]) == 0, "without a number: a power of two"


@pytest.mark.slow
def test_inputs_are_padded_at_most_to_the_position_table(led):
    """The bucket of 49 to 64 tokens has 64, as many as there are positions."""
    for length in (52, 64):
        agree(led, random_ids(length), max_new_tokens=3)


def test_the_streamer_gets_every_column_in_order(led):
    columns, ids = [], random_ids(7)
    actual = generated(led, ids, max_new_tokens=12, streamer=columns.append)
    assert all(isinstance(column, np.ndarray) and column.shape == (3,) for column in columns)
    np.testing.assert_array_equal(np.stack(columns, axis=1), actual[:, 1:])
    np.testing.assert_array_equal(generated(led, ids, max_new_tokens=12), actual)


@pytest.mark.slow
def test_sampling_is_reproducible_from_the_key(bart):
    sampled = {"max_new_tokens": 10, "do_sample": True, "top_k": 5}
    one, again, other = (generated(bart, random_ids(6), key=jax.random.key(seed), **sampled) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


@pytest.mark.slow
def test_generation_up_to_the_last_position(bart):
    ids = random_ids(5)
    agree(bart, ids, max_new_tokens=47, eos_token_id=NEVER_GENERATED)
    with pytest.raises(ValueError, match="a prompt of 1 tokens and 48 new ones are more than the 48 positions"):
        generated(bart, ids, max_new_tokens=48)
    with pytest.raises(ValueError, match="a prompt of 4 tokens and 45 new ones"):
        generated(bart, ids, decoder_input_ids=random_ids(3), max_new_tokens=45)


def test_encoder_outputs_replace_the_encoder(led):
    ids, mask = right_padded(random_ids(9, seed=2), 9, 4, 7)
    inputs = {"attention_mask": mask, "global_attention_mask": flags(9, *GLOBALS["scattered"])}
    encoded = jax.jit(lambda p: led.model.apply({"params": p}, ids, **inputs, method="encode"))(led.params)
    actual = generated(led, ids, attention_mask=mask, encoder_outputs=encoded, max_new_tokens=16)
    np.testing.assert_array_equal(actual, generated(led, ids, **inputs, max_global_tokens=4, max_new_tokens=16))
    with pytest.raises(
        ValueError, match=r"encoder_outputs must have states \[B,T,D\] for input_ids \(3, 8\), got \(3, 9, 32\)"
    ):
        generated(led, ids[:, :8], encoder_outputs=encoded)
