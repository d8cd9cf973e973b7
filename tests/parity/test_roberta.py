"""RoBERTa against the reference. What it shares with RoBERTa-PreLayerNorm is tested there (test_roberta_*.py)."""

import warnings

import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from support.arrays import EVERYTHING, close, ids, numbers
from support.reference import agree, agree_in_training, as_torch, pair, torch_model
from support.tiny import sizes, tiny

import jaxmodels as jm

# The pad id is 1.
ROWS = np.array([[5, 6, 7, 8, 1, 1], [9, 10, 11, 12, 13, 14]])
MASK = (ROWS != 1).astype(int)
INPUTS = {"input_ids": ROWS, "attention_mask": MASK, "token_type_ids": ROWS % 3, **EVERYTHING}
LABELS = np.where(MASK, np.roll(ROWS, 1, axis=1), -100)
CHOICES = {name: np.stack([INPUTS[name], INPUTS[name][::-1]], axis=1) for name in INPUTS if name not in EVERYTHING}
DECODER = {"is_decoder": True, "add_cross_attention": True}
# By head: the config, and further inputs.
HEADS = {
    "MaskedLM": ({"tie_word_embeddings": False, "hidden_act": "relu"}, {"labels": LABELS}),
    "CausalLM": (DECODER, {"labels": LABELS, "encoder_hidden_states": numbers((2, 4, 32))}),
    "SequenceClassification": ({"num_labels": 3}, {"labels": np.array([2, 0])}),
    "MultipleChoice": ({}, {**CHOICES, "labels": np.array([1, 0])}),
    "TokenClassification": ({"num_labels": 4}, {"labels": np.where(MASK, ROWS % 4, -100)}),
    "QuestionAnswering": ({}, {"start_positions": np.array([1, 9]), "end_positions": np.array([3, 2])}),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return pair("RobertaModel", tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    return pair("RobertaForCausalLM", tmp_path_factory.mktemp("decoder"), is_decoder=True)


# Those of BERT, in test_bert.py, are the same but for their names.
AS_BERT = ("TokenClassification", "QuestionAnswering")


@pytest.mark.parametrize("head", [pytest.param(h, marks=pytest.mark.slow) if h in AS_BERT else h for h in HEADS])
@pytest.mark.parity("RO1", "RO3", "RO4")
def test_every_output_of_a_head_its_loss_and_its_gradients(head, tmp_path):
    config, inputs = HEADS[head]
    agree_in_training(pair(f"RobertaFor{head}", tmp_path, **config), **{**INPUTS, **inputs})


@pytest.mark.parity("RO1", "RO3")
def test_base_model_gives_every_output(base):
    agree(base, **INPUTS)


@pytest.mark.parity("RO2")
def test_positions_are_counted_over_ids_that_are_not_padding(base):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        agree(base, input_ids=np.array([[1, 1, 5, 6, 7, 8], [5, 1, 6, 1, 7, 8]]))
    agree(base, inputs_embeds=numbers((2, 6, 32)), attention_mask=MASK)


@pytest.mark.parity("RO3")
def test_a_decoder_with_distances_and_a_head_mask(tmp_path):
    both = pair("RobertaModel", tmp_path, **DECODER, position_embedding_type="relative_key_query")
    mask = np.array([[1.0, 0.0, 1.0, 0.5], [0.0, 1.0, 1.0, 1.0]], np.float32)
    agree(both, **INPUTS, encoder_hidden_states=numbers((2, 4, 32)), head_mask=mask)


@pytest.mark.parity("RO2", "RO3")
def test_steps_agree_with_the_reference_s_cache(decoder):
    past, step = None, jax.jit(lambda cache, part: decoder.model.apply({"params": decoder.params}, part, cache=cache))
    cache = decoder.model.init_cache(2, 8)
    for part in np.split(ids((2, 6), low=2), [4, 5], axis=1):
        out = step(cache, part)
        cache = out.cache
        expected = decoder.reference(as_torch(part), past_key_values=past, use_cache=True)
        past = expected.past_key_values
        close(out.logits, expected.logits)


@pytest.mark.parity("RO2")
def test_left_padded_generation_continues_each_row_as_if_alone(decoder):
    """generate() of 4.57 counts positions from 0 (docs/parity.md, note 2), so its model is called step by step."""
    mask = np.array([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1]])
    prompt = np.where(mask, ids((3, 6), low=2), 1)
    options = {"max_new_tokens": 8, "eos_token_id": None}
    got = jm.generate(decoder.model, decoder.params, prompt, attention_mask=mask, **options).sequences
    for row, real, sequence in zip(prompt, mask, got, strict=True):
        tokens = torch.tensor(row[real == 1])[None]
        for _ in range(8):
            following = decoder.reference(tokens, use_cache=False).logits[:, -1].argmax(-1)
            tokens = torch.cat([tokens, following[:, None]], dim=1)
        np.testing.assert_array_equal(sequence[6:], tokens[0, -8:])


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"num_beams": 3}, {"cache_dtype": "int8"}], ids=str)
@pytest.mark.parity("RO2")
def test_beams_and_caches_of_8_bits_do_not_depend_on_left_padding(decoder, options):
    prompt = ids((1, 4), low=2)
    mask = np.array([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    padded = np.concatenate([np.pad(prompt, ((0, 0), (2, 0)), constant_values=1), ids((1, 6), seed=1, low=2)])
    options = {"max_new_tokens": 8, "eos_token_id": None, **options}
    both = jm.generate(decoder.model, decoder.params, padded, attention_mask=mask, **options).sequences
    alone = jm.generate(decoder.model, decoder.params, prompt, **options).sequences
    np.testing.assert_array_equal(both[0, 6:], alone[0, 4:])


@pytest.mark.parity("RO4")
def test_multiple_choice_alone_ignores_the_rate_of_the_classifiers():
    config = {"hidden_dropout_prob": 0.3, "classifier_dropout": 0.6}
    assert torch_model("RobertaForMultipleChoice", **config).dropout.p == 0.3
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "classifier_dropout": 0.6}
    for head, rows, active in (
        ("MultipleChoice", ids((2, 2, 4), low=2), False),
        ("TokenClassification", ROWS[1:], True),
    ):
        model, params = tiny(f"RobertaFor{head}", **off)
        apply = jax.jit(lambda keys, m=model, p=params, r=rows: m.apply({"params": p}, r, rngs=keys).logits)
        differs = np.abs(apply({"dropout": jax.random.key(0)}) - apply({})).max() > 1e-3
        assert differs == active, head


@pytest.mark.parametrize("head", ["MaskedLM", "SequenceClassification"])
@pytest.mark.parity("RO5")
def test_a_file_is_saved_as_it_was(head, tmp_path):
    both = pair(f"RobertaFor{head}", tmp_path / "theirs")
    jm.save(tmp_path / "ours", both.model, both.params)
    saved, expected = (load_file(tmp_path / side / "model.safetensors") for side in ("ours", "theirs"))
    assert saved.keys() == expected.keys()
    for path, tensor in saved.items():
        assert torch.equal(tensor, expected[path]), path


@pytest.mark.parity("RO5")
def test_files_of_older_releases(tmp_path):
    """roberta-base on the Hub has the decoder and its bias, position_ids, and a pooler that no head reads."""
    both = pair("RobertaForMaskedLM", tmp_path / "new")
    state = {**both.reference.state_dict(), "roberta.embeddings.position_ids": torch.arange(26)[None]}
    assert "lm_head.decoder.bias" in state
    state["roberta.pooler.dense.weight"], state["roberta.pooler.dense.bias"] = torch.ones(32, 32), torch.ones(32)
    (tmp_path / "old").mkdir()
    torch.save(state, tmp_path / "old" / "pytorch_model.bin")
    both.reference.config.save_pretrained(tmp_path / "old")
    with pytest.warns(UserWarning, match="unused by this class: pooler.dense"):
        _, params = jm.load(tmp_path / "old", cls="RobertaForMaskedLM")
    jax.tree.map(np.testing.assert_array_equal, params, both.params)


@pytest.mark.parity("RO1")
def test_defaults_are_those_of_the_reference():
    ours, theirs = jm.RobertaConfig().to_dict(), transformers.RobertaConfig().to_dict()
    kept = theirs.keys() & ours.keys() - {"transformers_version", "architectures", "torch_dtype"}
    assert {"classifier_dropout", "position_embedding_type", "eos_token_id", "pad_token_id"} <= kept
    assert {key: ours[key] for key in kept} == {key: theirs[key] for key in kept}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pad_token_id": None}, "RobertaConfig: pad_token_id must be set"),
        ({"max_position_embeddings": 2}, "must be less than max_position_embeddings=2"),
        ({"add_cross_attention": True}, "RobertaConfig: add_cross_attention=True needs is_decoder=True"),
    ],
    ids=str,
)
def test_bad_config_is_refused_by_name(values, message):
    with pytest.raises(ValueError, match=message):
        jm.RobertaConfig(**{**sizes("RobertaModel"), **values})


def test_a_config_of_the_other_family_is_refused():
    with pytest.raises(TypeError, match="RobertaModel takes a RobertaConfig, got RobertaPreLayerNormConfig"):
        jm.RobertaModel(jm.RobertaPreLayerNormConfig())
