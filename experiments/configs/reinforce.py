"""A small GPT-2 that learns by reward to repeat letters."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    # Letters of the alphabet, and per prompt.
    config.letters, config.length = 16, 8
    # Prompts per step, and sampled answers per prompt.
    config.prompts, config.samples = 32, 8
    # Config of GPT-2, with Hugging Face's names.
    config.model = ConfigDict(
        {"n_embd": 64, "n_layer": 2, "n_head": 4, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    )
    config.distributed = False
    config.steps = 500
    config.optimizer = ConfigDict(
        {
            "name": "adamw",
            "learning_rate": 2e-3,
            "matrix_rate": 1.0,
            "warmup": 20,
            "final": 0.0,
            "b1": 0.9,
            "b2": 0.98,
            "weight_decay": 0.0,
            "clip": 1.0,
        }
    )
    config.log_every = 10
    config.save_every = config.eval_every = 100
    # Maximum number of consecutive skipped steps; and whether to fall back to an older checkpoint if the newest one is
    # damaged. Both may differ when a run is resumed.
    config.max_skipped, config.skip_damaged = 10, False
    return config
