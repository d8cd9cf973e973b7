"""Twelve steps of a tiny LED: the whole experiment in seconds, for tests. data.path and data.transfer must be set."""

from ml_collections import ConfigDict

from jaxmodels.experiments.configs import led_qmsum_4096


def get_config() -> ConfigDict:
    config = led_qmsum_4096.get_config()
    config.tokenizer.vocab_size = 400
    config.lengths.update({"source": 64, "query": 12, "summary": 24})
    config.model.update(
        {
            "d_model": 16,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 32,
            "decoder_ffn_dim": 32,
            "attention_window": 8,
        }
    )
    config.steps, config.batch_size = 12, 4
    config.optimizer.warmup = 4
    config.log_every, config.save_every, config.eval_every = 2, 3, 4
    config.eval_requests, config.test_requests, config.generate_rows = 4, 6, 4
    return config
