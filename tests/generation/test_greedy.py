"""Greedy decoding matches the reference (docs/parity.md, N1, N2, N13, N14, N15, G9)."""

import warnings

import jax
import numpy as np
import pytest
import torch
from support.reference import pair

import jaxmodels as jm
from jaxmodels import GenerationConfig
from jaxmodels.generation.loop import num_compiled


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return pair("GPT2LMHeadModel", tmp_path_factory.mktemp("gpt2"), n_positions=96, eos_token_id=5, bos_token_id=1)


def reference_ids(gpt2, ids, **options):
    with torch.no_grad():
        tensors = {k: torch.from_numpy(v) for k, v in {"input_ids": ids, **options.pop("arrays", {})}.items()}
        return gpt2.reference.generate(**tensors, do_sample=False, **options).numpy()


def prompts(batch, length, seed=0):
    return np.random.default_rng(seed).integers(6, 67, (batch, length))


def left_padded(ids, lengths):
    mask = np.arange(ids.shape[1]) >= ids.shape[1] - np.array(lengths)[:, None]
    return np.where(mask, ids, 0), mask.astype(np.int64)


@pytest.mark.parametrize("length", [1, 2, 7, 31, 32, 33, 48])
@pytest.mark.parity("N1")
def test_ids_of_any_prompt_length(gpt2, length):
    ids = prompts(2, length, seed=length)
    result = jm.generate(gpt2.model, gpt2.params, ids, max_new_tokens=20)
    np.testing.assert_array_equal(result.sequences, reference_ids(gpt2, ids, max_new_tokens=20, pad_token_id=0))


@pytest.mark.parity("G9", "N15")
def test_left_padded_batch_counts_positions_from_the_mask(gpt2):
    ids, mask = left_padded(prompts(4, 12), [12, 7, 1, 3])
    result = jm.generate(gpt2.model, gpt2.params, ids, attention_mask=mask, max_new_tokens=24)
    expected = reference_ids(gpt2, ids, arrays={"attention_mask": mask}, max_new_tokens=24, pad_token_id=0)
    np.testing.assert_array_equal(result.sequences, expected)


def test_padding_is_inferred_from_the_pad_id_as_in_the_reference(gpt2):
    ids, mask = left_padded(prompts(3, 9), [9, 4, 2])
    expected = jm.generate(gpt2.model, gpt2.params, ids, attention_mask=mask, max_new_tokens=8).sequences
    np.testing.assert_array_equal(jm.generate(gpt2.model, gpt2.params, ids, max_new_tokens=8).sequences, expected)


def test_a_sequence_does_not_depend_on_the_batch(gpt2):
    ids, mask = left_padded(prompts(3, 10), [10, 6, 2])
    batch = jm.generate(gpt2.model, gpt2.params, ids, attention_mask=mask, max_new_tokens=16, eos_token_id=[])
    for row, length in enumerate([10, 6, 2]):
        single = jm.generate(gpt2.model, gpt2.params, ids[row : row + 1, -length:], max_new_tokens=16, eos_token_id=[])
        np.testing.assert_array_equal(batch.sequences[row, -16:], single.sequences[0, -16:])


@pytest.mark.parity("N13")
def test_several_eos_ids_end_sequences_followed_by_padding(gpt2):
    ids = prompts(6, 5, seed=3)
    free = jm.generate(gpt2.model, gpt2.params, ids, max_new_tokens=16, eos_token_id=[]).sequences[:, 5:]
    eos = sorted({int(free[0, 3]), int(free[1, 6])})  # ids that the model generates
    options = {"max_new_tokens": 16, "eos_token_id": eos, "pad_token_id": 0}
    result = np.asarray(jm.generate(gpt2.model, gpt2.params, ids, **options).sequences)
    np.testing.assert_array_equal(result, reference_ids(gpt2, ids, **options))
    ended = np.isin(result[0, 5:], eos)
    assert ended.any() and (result[0, 5 + ended.argmax() + 1 :] == 0).all()


@pytest.mark.parity("N13")
def test_generation_stops_when_all_sequences_have_ended(gpt2):
    ids = prompts(1, 5)
    free = np.asarray(jm.generate(gpt2.model, gpt2.params, ids, max_new_tokens=16, eos_token_id=[]).sequences)[0, 5:]
    eos = int(free[4])
    result = jm.generate(gpt2.model, gpt2.params, ids, max_new_tokens=16, eos_token_id=eos)
    assert result.sequences.shape[1] == 5 + list(free).index(eos) + 1


@pytest.mark.parity("N13")
def test_without_pad_id_the_eos_id_pads_with_a_warning(gpt2):
    model = gpt2.model.clone(config=gpt2.model.config.replace(pad_token_id=None, generation={}))
    with pytest.warns(UserWarning, match="pad_token_id is not set"):
        jm.generate(model, gpt2.params, prompts(2, 4), max_new_tokens=4)


@pytest.mark.parity("N2")
def test_max_length_includes_the_prompt_and_max_new_tokens_overrides_it(gpt2):
    ids = prompts(1, 6)
    assert jm.generate(gpt2.model, gpt2.params, ids, max_length=13, eos_token_id=[]).sequences.shape == (1, 13)
    assert jm.generate(gpt2.model, gpt2.params, ids, eos_token_id=[]).sequences.shape == (1, 20)  # the default
    with pytest.warns(UserWarning, match="max_length has no effect"):
        both = jm.generate(gpt2.model, gpt2.params, ids, max_length=13, max_new_tokens=3, eos_token_id=[])
    assert both.sequences.shape == (1, 9)


@pytest.mark.parity("N14")
def test_call_over_generation_config_over_config(gpt2):
    config = gpt2.model.config.replace(eos_token_id=7, generation={"max_new_tokens": 5, "eos_token_id": [8, 9]})
    assert GenerationConfig.merge(config, None, {}).eos_token_id == (8, 9)
    assert GenerationConfig.merge(config, None, {}).max_new_tokens == 5
    assert GenerationConfig.merge(config, None, {"max_new_tokens": 6, "eos_token_id": 3}).eos_token_id == (3,)
    assert GenerationConfig.merge(config.replace(generation={}), None, {}).eos_token_id == (7,)


@pytest.mark.parity("N14")
def test_generation_config_json_is_read(gpt2, tmp_path):
    jm.save(tmp_path, gpt2.model, gpt2.params)
    (tmp_path / "generation_config.json").write_text('{"max_new_tokens": 3, "eos_token_id": null}')
    model, params = jm.load(tmp_path)
    assert jm.generate(model, params, prompts(1, 4)).sequences.shape == (1, 7)


@pytest.mark.parity("N15")
def test_right_padding_warns(gpt2):
    ids = prompts(2, 6)
    mask = np.ones_like(ids)
    mask[1, 4:] = 0
    with pytest.warns(UserWarning, match="padded on the right"):
        jm.generate(gpt2.model, gpt2.params, ids, attention_mask=mask, max_new_tokens=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jm.generate(gpt2.model, gpt2.params, ids, attention_mask=mask[:, ::-1], max_new_tokens=2)


def test_generation_up_to_the_last_position(gpt2):
    ids = prompts(1, 80)
    result = jm.generate(gpt2.model, gpt2.params, ids, max_new_tokens=16, eos_token_id=[])
    expected = reference_ids(gpt2, ids, max_new_tokens=16, pad_token_id=0, eos_token_id=None)
    np.testing.assert_array_equal(result.sequences, expected)
    with pytest.raises(ValueError, match="80 tokens and 17 new ones are more than the 96 positions"):
        jm.generate(gpt2.model, gpt2.params, ids, max_new_tokens=17)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"ids": np.zeros((1, 0), int)}, ValueError, "at least one token"),
        ({"ids": np.zeros(4, int)}, ValueError, r"\[B,T\]"),
        ({"ids": np.zeros((1, 4))}, ValueError, "int array"),
        ({"ids": np.full((1, 4), 67)}, ValueError, "vocabulary has 67"),
        ({"ids": np.full((1, 4), -1)}, ValueError, "vocabulary has 67"),
        ({"attention_mask": np.zeros((1, 4), int)}, ValueError, "prompt 0 contains only padding"),
        ({"attention_mask": np.ones((1, 5), int)}, ValueError, "shape of input_ids"),
        ({"max_new_token": 5}, ValueError, "no option 'max_new_token'; did you mean 'max_new_tokens'"),
        ({"max_new_tokens": 0}, ValueError, "max_new_tokens"),
        ({"max_length": 4}, ValueError, "leaves no token to generate"),
        ({"temperature": -1.0}, ValueError, "temperature"),
        ({"top_p": 1.5}, ValueError, "top_p"),
        ({"top_k": -2}, ValueError, "top_k"),
        ({"eos_token_id": 99}, ValueError, "eos_token_id"),
        ({"do_sample": True}, ValueError, "needs key"),
        ({"penalty_alpha": 0.6}, NotImplementedError, "contrastive search"),
        ({"force_words_ids": [[3]]}, NotImplementedError, "constrained beam search"),
        ({"prompt_lookup_num_tokens": 3}, NotImplementedError, "assisted generation"),
    ],
)
def test_invalid_input_is_rejected_by_name_before_compilation(gpt2, arguments, error, message):
    arguments = {"ids": prompts(1, 4), **arguments}
    before = num_compiled()
    with pytest.raises(error, match=message):
        jm.generate(gpt2.model, gpt2.params, arguments.pop("ids"), **arguments)
    assert num_compiled() == before


def test_neutral_values_are_accepted(gpt2):
    ids = prompts(1, 4)
    plain = jm.generate(gpt2.model, gpt2.params, ids, max_new_tokens=4).sequences
    neutral = jm.generate(
        gpt2.model, gpt2.params, ids, max_new_tokens=4, num_beams=1, repetition_penalty=1.0, penalty_alpha=0.0
    )
    np.testing.assert_array_equal(plain, neutral.sequences)


def test_sharded_parameters_give_the_same_ids(gpt2):
    mesh = jm.sharding.make_mesh({"data": 4, "model": 2})
    model, params = jm.load(gpt2.folder, mesh=mesh, rules=jm.sharding.FSDP_TP)
    ids = prompts(2, 9)
    plain = jm.generate(gpt2.model, gpt2.params, ids, max_new_tokens=12).sequences
    np.testing.assert_array_equal(jm.generate(model, params, ids, max_new_tokens=12).sequences, plain)
    assert len(jax.devices()) == 8
