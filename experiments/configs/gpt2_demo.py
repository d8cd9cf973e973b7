"""A small GPT-2 on the Python standard library's source, in five minutes on two CPU cores."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.data = ConfigDict({"kind": "stdlib", "path": "", "field": "text", "held_out": 0.03})
    # path: a folder or Hub id of a ready tokenizer instead of training one of vocab_size tokens.
    config.tokenizer = ConfigDict({"path": "", "vocab_size": 4096})

    # Facts of the model, by Hugging Face's names. Nothing is seen twice, so there is nothing for dropout to prevent.
    config.model = ConfigDict(
        {
            "n_positions": 256,
            "n_embd": 192,
            "n_layer": 2,
            "n_head": 3,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
            "resid_pdrop": 0.0,
        }
    )
    # Choices of the run.
    config.dtype = "float32"
    config.remat = False
    # A rule table of jaxmodels.sharding, changed for the axes in `changes`, on a mesh of all devices.
    config.sharding = ConfigDict({"mesh": ConfigDict({"data": -1}), "table": "DP", "changes": ConfigDict()})
    config.distributed = False

    config.steps = 1450
    config.batch_size = 4
    config.microbatches = 1
    # Muon reaches AdamW's loss in about half the steps here.
    config.optimizer = ConfigDict(
        {
            "name": "muon",
            "learning_rate": 8e-3,
            "matrix_rate": 5.0,
            "warmup": 60,
            "final": 0.0,
            "b1": 0.9,
            "b2": 0.95,
            "weight_decay": 0.1,
            "clip": 1.0,
        }
    )

    config.log_every = 10
    config.save_every = 100
    config.eval_every = 250
    # So many steps on end may change nothing (not finite, no labels); where the newest checkpoint is damaged, the
    # newest one that is not may be taken. Both may change between two starts of a run.
    config.max_skipped, config.skip_damaged = 10, False
    config.eval_windows = 64

    config.sample = ConfigDict(
        {
            "prompts": ("import os\n", "class Queue:\n"),
            "max_new_tokens": 192,
            "temperature": 0.8,
            "top_p": 0.95,
            "top_k": 0,
        }
    )
    return config
