"""Arguments of `generate` beside its options: prompts, functions, models."""

import jax.numpy as jnp
import numpy as np
import pytest
import transformers
from support.diverse_models import generate, random_ids, reference_generate
from support.tiny import tiny

import jaxmodels as jm

IDS = random_ids(2, 5)


@pytest.mark.parity("N1")
def test_without_ids_the_prompt_is_bos(gpt2, bart):
    for pair in (gpt2, bart):
        bos = pair.model.config.bos_token_id
        actual = generate(pair, None, max_new_tokens=5)
        np.testing.assert_array_equal(actual.sequences, generate(pair, np.array([[bos]]), max_new_tokens=5).sequences)
        expected = pair.reference.generate(max_new_tokens=5, do_sample=False, num_beams=1)
        np.testing.assert_array_equal(actual.sequences, expected)
    assert generate(gpt2, None, bos_token_id=9, max_new_tokens=2).sequences[0, 0] == 9
    ones = np.ones((3, 1), int)
    assert generate(gpt2, None, attention_mask=ones, max_new_tokens=2).sequences.shape == (3, 3)


@pytest.mark.parity("N1")
def test_encoder_outputs_need_no_ids(bart):
    encoded = bart.model.apply({"params": bart.params}, IDS, method="encode")
    actual = generate(bart, None, encoder_outputs=encoded, max_new_tokens=5)
    np.testing.assert_array_equal(actual.sequences, generate(bart, IDS, max_new_tokens=5).sequences)
    for wrong in (5, (), {"a": 1}):
        with pytest.raises(TypeError, match="encoder_outputs must be the output of `encode`"):
            generate(bart, None, encoder_outputs=wrong)


def test_without_ids_and_bos_id_is_an_error(t5):
    with pytest.raises(ValueError, match="pass input_ids= or bos_token_id="):
        generate(t5, None)


FUNCTIONS = {
    "another width": (
        "logits_processor",
        lambda text, scores: scores[:, :-1],
        r"float32 \(2, 67\).*got float32 \(2, 66\)",
    ),
    "one row": ("logits_processor", lambda text, scores: scores[0], r"got float32 \(67,\)"),
    "another dtype": ("logits_processor", lambda text, scores: scores.astype(jnp.bfloat16), r"got bfloat16"),
    "integers": ("logits_processor", lambda text, scores: scores.astype(int), r"got int32"),
    "nothing": ("logits_processor", lambda text, scores: None, "got None"),
    "numbers": (
        "stopping_criteria",
        lambda text, scores: jnp.zeros(2),
        r"must return bool \(2,\) or \(\).*got float32",
    ),
    "columns": ("stopping_criteria", lambda text, scores: scores > 0, r"got bool \(2, 67\)"),
    "words": ("stopping_criteria", lambda text, scores: "no", "got 'no'"),
}


@pytest.mark.parametrize("what", FUNCTIONS)
@pytest.mark.parity("N4", "N2")
def test_invalid_results_of_functions_are_rejected_by_name(what, gpt2):
    option, function, message = FUNCTIONS[what]
    with pytest.raises(ValueError, match=f"{option} <lambda> must return .*{message.removeprefix('must return ')}"):
        generate(gpt2, IDS, **{option: [function]}, pad_token_id=0)


def test_arguments_that_are_not_functions_are_rejected(gpt2):
    for option in ("logits_processor", "stopping_criteria"):
        for value in (print, [5], "a"):
            with pytest.raises(TypeError, match=f"{option} must (be a list of|contain) functions"):
                generate(gpt2, IDS, **{option: value})
        assert generate(gpt2, IDS, **{option: None}, max_new_tokens=1).sequences.shape == (2, 6)
    with pytest.raises(TypeError, match="MinLengthLogitsProcessor is a PyTorch function"):
        generate(gpt2, IDS, logits_processor=[transformers.MinLengthLogitsProcessor(3, 5)])
    with pytest.raises(TypeError, match=r"lambda ids: streamer.put\(ids\)"):
        generate(gpt2, IDS, streamer=transformers.generation.streamers.BaseStreamer())
    with pytest.raises(TypeError, match="prefix_allowed_tokens_fn must be a function"):
        generate(gpt2, IDS, prefix_allowed_tokens_fn=[1])
    with pytest.raises(TypeError, match="tokenizer must have a method `decode`"):
        generate(gpt2, IDS, tokenizer="gpt2")
    with pytest.raises(TypeError, match="cache_dtype must be a dtype such as"):
        generate(gpt2, IDS, cache_dtype="int7")
    with pytest.raises(ValueError, match=r"at least one id of the 67 .* got \[1.9\]"):
        generate(gpt2, IDS, prefix_allowed_tokens_fn=lambda row, ids: [1.9])


def test_inputs_that_are_not_ids_are_rejected(gpt2):
    for ids, message in (
        ({"input_ids": IDS}, r"pass a batch as generate\(..., \*\*batch\)"),
        ([[5, 6], [7]], "sequences of one length"),
        ("text", "holds numbers"),
        (IDS[0], r"add a batch axis to a single sequence: ids\[None\]"),
        (IDS + 0.5, "int array"),
        (IDS + 2**32, "the vocabulary has 67"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            generate(gpt2, ids)
    additive = np.where(np.ones_like(IDS), 0.0, -1e9)
    for mask in (additive, additive - 1e9, np.full_like(IDS, 2)):
        with pytest.raises(ValueError, match="attention_mask holds"):
            generate(gpt2, IDS, attention_mask=mask)
    with pytest.raises(ValueError, match="negative_prompt_attention_mask needs negative_prompt_ids"):
        generate(gpt2, IDS, negative_prompt_attention_mask=np.ones_like(IDS), guidance_scale=2.0)


def test_invalid_models_and_parameters_are_rejected(gpt2):
    with pytest.raises(TypeError, match="takes a model and its parameters"):
        jm.generate("gpt2", gpt2.params, IDS)
    for name in ("GPT2Model", "GPT2ForSequenceClassification", "BartModel", "DPRContextEncoder"):
        with pytest.raises(TypeError, match=f"{name} has no language modelling head"):
            jm.generate(*tiny(name), IDS)
    with pytest.raises(TypeError, match=r"variables\['params'\]"):
        jm.generate(gpt2.model, {"params": gpt2.params}, IDS)
    with pytest.raises(TypeError, match="params must be the parameters of the model"):
        jm.generate(gpt2.model, IDS)


def test_an_ngram_size_beyond_the_sequence_has_no_effect(gpt2):
    free = generate(gpt2, IDS, max_new_tokens=4)
    actual = generate(gpt2, IDS, max_new_tokens=4, no_repeat_ngram_size=2**30)
    np.testing.assert_array_equal(actual.sequences, free.sequences)
    assert reference_generate(gpt2, IDS, max_new_tokens=4).sequences.tolist() == free.sequences.tolist()
