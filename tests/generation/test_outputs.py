"""Outputs of every step: scores, logits, attentions, hidden states (docs/parity.md, N11, X1)."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from support.arrays import close
from support.diverse_models import (
    NEVER_GENERATED,
    assert_equal_scores,
    diverse_model,
    frequent_ids,
    generate,
    padded,
    random_ids,
    reference_generate,
)

import jaxmodels as jm

PAD, PROMPT, NEW = 4, 7, 6
EVERYTHING = {name: True for name in ("output_scores", "output_logits", "output_attentions", "output_hidden_states")}
BEAMS = {"num_beams": 3, "num_return_sequences": 2}


@pytest.fixture(scope="module")
def batches():
    ids = random_ids(3, PROMPT, seed=2)
    return {side: padded(ids, [PROMPT, 4, 5], PAD, side) for side in ("left", "right")}


def both_outputs(pair, batch, **options):
    ids, mask = batch
    options = {
        "max_new_tokens": NEW,
        "pad_token_id": PAD,
        "eos_token_id": NEVER_GENERATED,
        "attention_mask": mask,
        **options,
    }
    actual = generate(pair, ids, **EVERYTHING, **options)
    return actual, reference_generate(
        pair, ids, **options, **{k: v for k, v in EVERYTHING.items() if k != "output_scores"}
    )


def steps_agree(actual, expected, name, real=None):
    """Compares [L,N,...] for every step; of the first one only the real tokens, bool [N,T]."""
    assert len(actual[name]) == len(expected[name]) == NEW, name
    for step, (result, layers) in enumerate(zip(actual[name], expected[name], strict=True)):
        result, layers = np.asarray(result), np.stack([layer.numpy() for layer in layers])
        assert result.shape == layers.shape, f"{name}, step {step}: {result.shape}, expected {layers.shape}"
        if real is not None and step == 0:
            queries = np.moveaxis(result, -2, 2), np.moveaxis(layers, -2, 2)  # tokens after sequences
            result, layers = (array[:, real] for array in queries)
        close(result, layers, f"{name}, step {step}", tolerance=1e-4)


def scores_agree(actual, expected):
    for name in ("scores", "logits"):
        assert_equal_scores(actual[name], expected[name], name)


def transitions_agree(pair, actual, expected):
    for normalize in (False, True):
        of_beams = {"beam_indices": expected.beam_indices} if "beam_indices" in expected else {}
        reference_scores = pair.reference.compute_transition_scores(
            expected.sequences, expected.scores, **of_beams, normalize_logits=normalize
        )
        result = jm.compute_transition_scores(
            actual.sequences, actual.scores, actual.beam_indices, normalize_logits=normalize
        )
        finite = np.isfinite(reference_scores.numpy())
        np.testing.assert_array_equal(np.isfinite(result), finite)
        close(np.asarray(result)[finite], reference_scores.numpy()[finite], "transition scores", tolerance=1e-4)


@pytest.mark.parametrize("more", [{}, BEAMS], ids=["greedy", "beams"])
@pytest.mark.parity("N11", "X1")
def test_outputs_of_a_decoder_only_model(more, gpt2, batches):
    actual, expected = both_outputs(gpt2, batches["left"], **more)
    np.testing.assert_array_equal(actual.sequences, expected.sequences)
    real = np.repeat(batches["left"][1] == 1, more.get("num_beams", 1), axis=0)
    scores_agree(actual, expected)
    for name in ("attentions", "hidden_states"):
        steps_agree(actual, expected, name, real)
    transitions_agree(gpt2, actual, expected)
    assert {name for name in list(actual) if not name.startswith("sequences")} == {
        *("scores", "logits", "attentions", "hidden_states", "lengths"),
        *(("beam_indices",) if more else ()),
    }


def check_encoder_decoder(pair, batch, more):
    actual, expected = both_outputs(pair, batch, **more)
    np.testing.assert_array_equal(actual.sequences, expected.sequences)
    scores_agree(actual, expected)
    for name in ("decoder_attentions", "decoder_hidden_states", "cross_attentions"):
        steps_agree(actual, expected, name)
    return actual, expected


@pytest.mark.parametrize("more", [pytest.param({}, marks=pytest.mark.slow), BEAMS], ids=["greedy", "beams"])
@pytest.mark.parity("N11")
def test_outputs_of_an_encoder_decoder(more, bart, batches):
    actual, expected = check_encoder_decoder(bart, batches["right"], more)
    real = batches["right"][1] == 1
    for name in ("encoder_attentions", "encoder_hidden_states"):
        result, layers = np.asarray(actual[name]), np.stack([layer.numpy() for layer in expected[name]])
        assert result.shape == layers.shape
        queries = np.moveaxis(result, -2, 2)[:, real], np.moveaxis(layers, -2, 2)[:, real]
        close(*queries, name, tolerance=1e-4)
    transitions_agree(bart, actual, expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["led", "t5"])
@pytest.mark.parametrize("more", [{}, BEAMS], ids=["greedy", "beams"])
@pytest.mark.parity("N11")
def test_outputs_of_led_and_t5(more, name, batches, request):
    check_encoder_decoder(request.getfixturevalue(name), batches["right"], more)


@pytest.mark.parametrize("windows", [(4, 4), (4, 6)], ids=str)
@pytest.mark.parity("N11")
def test_outputs_of_the_led_encoder(windows, tmp_path):
    """With 3 global tokens in 4 slots."""
    led = diverse_model("LEDForConditionalGeneration", tmp_path, encoder_layers=2, attention_window=list(windows))
    ids, mask = padded(random_ids(2, 12, seed=3), [12, 9], PAD, "right")
    flags = np.zeros_like(ids)
    flags[0, [0, 4, 7]] = flags[1, [2, 10]] = 1
    options = {"attention_mask": mask, "global_attention_mask": flags * mask, "max_new_tokens": 2, "pad_token_id": PAD}
    actual = generate(led, ids, **options, output_attentions=True)
    expected = reference_generate(led, ids, **options, output_attentions=True)
    np.testing.assert_array_equal(actual.sequences, expected.sequences)
    assert len(actual.encoder_attentions) == 2
    for result, layer in zip(actual.encoder_attentions, expected.encoder_attentions, strict=True):
        close(result, layer, "encoder_attentions", tolerance=1e-4)


@pytest.mark.parity("N11")
def test_transition_scores_of_beams_sum_to_their_scores(gpt2, batches):
    """The step that generated the eos id included."""
    ids, mask = batches["left"]
    eos = frequent_ids(gpt2, ids, attention_mask=mask)[0]
    options = {"num_beams": 4, "num_return_sequences": 4, "early_stopping": True, "eos_token_id": eos}
    for penalty in (1.0, 0.5):
        options |= {"length_penalty": penalty, "max_new_tokens": 16, "pad_token_id": PAD, "attention_mask": mask}
        actual = generate(gpt2, ids, output_scores=True, **options)
        transitions = np.asarray(jm.compute_transition_scores(actual.sequences, actual.scores, actual.beam_indices))
        lengths = (np.asarray(actual.beam_indices) >= 0).sum(axis=1)
        assert len(set(lengths.tolist())) > 1, "all beams ended at once"
        close(transitions.sum(axis=1) / lengths**penalty, actual.sequences_scores, tolerance=1e-5)
        transitions_agree(gpt2, actual, reference_generate(gpt2, ids, **options))


@pytest.mark.parity("N11")
def test_transition_scores_of_greedy_decoding_are_the_tokens_log_probabilities(gpt2, batches):
    actual, _ = both_outputs(gpt2, batches["left"])
    ids = torch.from_numpy(np.asarray(actual.sequences, np.int64))[:1]  # the prompt without padding
    expected = gpt2.reference(ids).logits.log_softmax(-1)[:, PROMPT - 1 : -1].gather(2, ids[:, PROMPT:, None])[..., 0]
    result = jm.compute_transition_scores(actual.sequences, actual.logits, normalize_logits=True)
    close(result[:1], expected, tolerance=1e-4)


@pytest.mark.parity("N11")
def test_only_requested_outputs_are_returned(gpt2):
    actual = generate(gpt2, random_ids(3, 5), max_new_tokens=5, eos_token_id=NEVER_GENERATED)
    assert list(actual.keys()) == ["sequences", "lengths"]
    actual = generate(
        gpt2, random_ids(3, 5), max_new_tokens=5, eos_token_id=NEVER_GENERATED, num_beams=3, early_stopping="never"
    )
    assert list(actual.keys()) == ["sequences", "sequences_scores", "beam_indices", "lengths"]


def test_transition_scores_of_another_batch_are_rejected():
    with pytest.raises(ValueError, match=r"scores must be \[generated,N,V\] with N = 2 sequences"):
        jm.compute_transition_scores(jnp.zeros((2, 5), int), jnp.zeros((3, 6, 9)))
    with pytest.raises(ValueError, match="scores"):
        jm.compute_transition_scores(jnp.zeros((2, 5), int), jnp.zeros((6, 9)))
