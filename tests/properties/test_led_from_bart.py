"""A BART becomes an LED that computes the same, wherever the window spans the text."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.tiny import random_params

import jaxmodels as jm

SIZES = {
    "vocab_size": 67,
    "d_model": 32,
    "max_position_embeddings": 20,
    **{f"{stack}_{name}": n for stack in ("encoder", "decoder") for name, n in (("layers", 2), ("attention_heads", 4))},
    **{f"{stack}_ffn_dim": 40 for stack in ("encoder", "decoder")},
}
IDS = np.random.default_rng(0).integers(3, 67, (2, 15))


def bart(cls=jm.BartForConditionalGeneration, **config):
    model = cls(jm.BartConfig(**{**SIZES, **config}))
    return model, random_params(model)


@pytest.mark.parametrize("global_tokens", [False, True])
@pytest.mark.parametrize("cls", [jm.BartForConditionalGeneration, jm.BartModel])
def test_it_computes_what_bart_does_where_the_window_spans_the_text(cls, global_tokens):
    model, params = bart(cls)
    led, converted = jm.led_from_bart(model, params, attention_window=32, max_encoder_position_embeddings=50)
    mask = np.ones_like(IDS)
    mask[1, 11:] = 0
    inputs = {"input_ids": IDS, "attention_mask": mask, "decoder_input_ids": IDS[:, :6]}
    expected = model.apply({"params": params}, **inputs)[0]
    # The copies of the projections make a global token see what it saw before, and all others see it anyway.
    extra = {"global_attention_mask": np.eye(15, dtype=int)[[0, 3]]} if global_tokens else {}
    np.testing.assert_allclose(led.apply({"params": converted}, **inputs, **extra)[0], expected, atol=2e-5)


def test_positions_begin_again_where_barts_end():
    model, params = bart()
    led, converted = jm.led_from_bart(model, params, attention_window=(4, 8), max_encoder_position_embeddings=50)
    table = params["model"]["encoder"]["embeddings"]["table"]["embedding"]
    assert table.shape == (22, 32)
    tiled = converted["led"]["encoder"]["embeddings"]["table"]["embedding"]
    np.testing.assert_array_equal(tiled, jnp.concatenate([table[2:], table[2:], table[2:12]]))
    decoder = converted["led"]["decoder"]["embeddings"]["table"]["embedding"]
    np.testing.assert_array_equal(decoder, params["model"]["decoder"]["embeddings"]["table"]["embedding"][2:])
    assert (led.config.windows, led.config.max_decoder_position_embeddings) == ((4, 8), 20)


def test_it_is_a_whole_model_that_is_saved_and_loaded(tmp_path):
    model, params = bart(forced_eos_token_id=3)
    led, converted = jm.led_from_bart(model, params, attention_window=4, max_encoder_position_embeddings=50)
    jm.save(tmp_path, led, converted)
    again, loaded = jm.load(tmp_path)
    assert type(again) is jm.LEDForConditionalGeneration
    assert again.config.generation["forced_eos_token_id"] == 3
    jax.tree.map(np.testing.assert_array_equal, loaded, converted)


def test_what_cannot_become_an_led_is_refused():
    with pytest.raises(ValueError, match="scale_embedding"):
        jm.led_from_bart(*bart(scale_embedding=True))
    with pytest.raises(TypeError, match="starts from BartModel or BartForConditionalGeneration, got LEDModel"):
        jm.led_from_bart(jm.LEDModel(jm.LEDConfig()), {})
