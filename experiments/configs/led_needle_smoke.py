"""Twelve steps of a tiny LED on short texts: both arms in seconds, for tests."""

from ml_collections import ConfigDict

from jaxmodels.experiments.configs import led_needle


def get_config() -> ConfigDict:
    config = led_needle.get_config()
    config.model.update(
        {
            "d_model": 16,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 16,
            "decoder_ffn_dim": 16,
            "attention_window": 4,
        }
    )
    config.data.update({"words": 8, "key_words": 4, "value_words": 4, "apart": 4})
    config.curriculum, config.steps, config.batch_tokens = ((12, 32),), 12, 64
    config.optimizer.warmup = 4
    config.test.update({"distances": (2, 4, 8, 29), "rows": 4, "batches": 2})
    config.log_every, config.save_every, config.eval_every = 2, 3, 6
    return config
