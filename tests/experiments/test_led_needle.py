"""The needle task: its texts, the receptive field, and the complete experiment with a tiny config."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import FrozenConfigDict

import jaxmodels as jm
from experiments import led_needle
from experiments.configs import led_needle_smoke
from experiments.data.needle import BOS, EOS, QUESTION, Curriculum, Language, at_distance
from experiments.led_needle import Reader
from experiments.metrics import read

LANGUAGE = Language(words=8, key_words=4, value_words=5, facts=3, apart=4)


@pytest.mark.parametrize("distance", [2, 9, 37])
def test_answer_follows_the_queried_key(distance):
    rng = np.random.default_rng(0)
    for _ in range(20):
        ids, answer = LANGUAGE.example(rng, 40, distance)
        bos, key, eos = ids[:QUESTION].tolist()
        assert (bos, eos) == (BOS, EOS) and LANGUAGE.key(0) <= key < LANGUAGE.key(4)
        text = ids[QUESTION:]
        (place,) = np.flatnonzero(text == key)  # once
        at = place + QUESTION
        assert ids[at + 1] == answer and at + 1 - (QUESTION - 1) == distance
        values = np.flatnonzero(text >= LANGUAGE.value(0))
        assert 1 <= len(values) <= 3 and (len(values) == 1 or np.diff(values).min() > 4)
        assert ids.max() < LANGUAGE.vocabulary and ids.dtype == np.int32


def test_question_is_global_if_requested():
    rng = np.random.default_rng(0)
    for use_global in (True, False):
        batch = LANGUAGE.batch(rng, 16, [3, 5], use_global=use_global)
        assert batch["global_attention_mask"].tolist() == [[int(use_global)] * 3 + [0] * 13] * 2
        assert batch["labels"].shape == (2, 1) and batch["input_ids"].shape == (2, 16)


def test_texts_get_longer_and_depend_on_index_and_seed_only():
    stages = ((3, 16), (5, 64))
    first, again, other = (Curriculum(LANGUAGE, stages, 128, seed, True) for seed in (0, 0, 1))
    assert [first[n]["input_ids"].shape for n in range(5)] == [(8, 16)] * 3 + [(2, 64)] * 2
    for number in (4, 0):
        np.testing.assert_array_equal(first[number]["input_ids"], again[number]["input_ids"])
        assert not np.array_equal(first[number]["input_ids"], other[number]["input_ids"])
    test = next(at_distance(LANGUAGE, 64, 30, batch_size=2, batches=1, use_global=True))
    assert not np.array_equal(test["input_ids"], first[4]["input_ids"])


@pytest.mark.parametrize("stages", [((5, 16), (3, 64)), ((5, 4),), ((5, 256),)])
def test_impossible_curriculum_is_rejected(stages):
    with pytest.raises(ValueError, match="ascending steps, lengths from 5 to batch_tokens=128"):
        Curriculum(LANGUAGE, stages, 128, 0, True)


def test_receptive_field_of_windows_and_of_global_tokens():
    """Determine by gradients which words of the text can change the logits."""
    config = jm.LEDConfig(
        vocab_size=LANGUAGE.vocabulary, d_model=16, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, attention_window=(4, 6), init_std=0.5,
        max_encoder_position_embeddings=32, max_decoder_position_embeddings=1,
    )  # fmt: skip
    model = Reader(jm.LEDForConditionalGeneration(config))
    params = jm.init(model, jax.random.key(0))
    for use_global, reach in ((False, 2 + 3), (True, 29)):
        batch = LANGUAGE.batch(np.random.default_rng(0), 32, [20], use_global=use_global)

        @jax.jit
        def logits(ids, batch=batch):
            return model.apply({"params": params}, **{**batch, "input_ids": ids}).logits

        before = logits(batch["input_ids"])
        moved = []
        for place in range(QUESTION, 32):
            ids = batch["input_ids"].copy()
            ids[0, place] = 3 + (ids[0, place] - 2) % 8
            moved.append(bool(jnp.abs(logits(ids) - before).max() > 0))
        assert moved == [place - (QUESTION - 1) <= reach for place in range(QUESTION, 32)]


@pytest.mark.slow
def test_experiment_with_a_tiny_config(tmp_path, capsys):
    config = FrozenConfigDict(led_needle_smoke.get_config())
    result = led_needle.run(config, tmp_path)
    assert result["reach"] == 4 and result["chance"] == 0.25 and result["length"] == 32
    for arm in ("global", "window"):
        rows = read(tmp_path / arm / "metrics.jsonl")
        assert [row["step"] for row in rows if "loss" in row] == list(range(1, 13))
        assert [*result["accuracy"][arm]] == ["2", "4", "8", "29"]
    assert json.loads((tmp_path / "result.json").read_text()) == result
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert led_needle.run(config, tmp_path) == result, "a complete run trains nothing"
    led_needle.show(result, config, tmp_path)
    output = capsys.readouterr().out
    assert "this run is complete" in output and "by chance 25.0%; the windows reach 4 tokens" in output
