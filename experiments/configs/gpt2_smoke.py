"""Twelve steps of a tiny model: the whole experiment in seconds, for tests. data.path is a folder of texts."""

from ml_collections import ConfigDict

from jaxmodels.experiments.configs import gpt2_demo


def get_config() -> ConfigDict:
    config = gpt2_demo.get_config()
    config.data.update({"kind": "text", "held_out": 0.3})
    config.tokenizer.vocab_size = 300
    config.model.update({"n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2, "resid_pdrop": 0.1})
    config.steps = 12
    config.optimizer.warmup = 4
    config.log_every, config.save_every, config.eval_every, config.eval_windows = 2, 3, 4, 8
    config.sample.update({"prompts": ("a",), "max_new_tokens": 8})
    return config
