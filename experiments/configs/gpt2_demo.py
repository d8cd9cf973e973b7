"""A small GPT-2 on the source code of the Python standard library, in five minutes on two CPU cores."""

from ml_collections import ConfigDict, FieldReference


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.data = ConfigDict({"kind": "stdlib", "path": "", "field": "text", "held_out": 0.03})
    # path: folder or Hub id of a tokenizer; "": one with vocab_size tokens is trained.
    config.tokenizer = ConfigDict({"path": "", "vocab_size": 4096})

    # Model config, with Hugging Face's names. No example is seen twice, so dropout is not needed.
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
    # Run options.
    config.dtype = "float32"
    config.remat = FieldReference(False, field_type=object)  # or a policy: "dots", "dots_and_attention", ...
    # A rule table of jaxmodels.sharding, overridden for the axes in `changes`, on a mesh of all devices.
    config.sharding = ConfigDict({"mesh": ConfigDict({"data": -1}), "table": "DP", "changes": ConfigDict()})
    config.distributed = False

    config.steps = 1450
    config.batch_size = 4
    config.microbatches = 1
    # Here Muon reaches the loss of AdamW in about half the steps.
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
    # Maximum number of consecutive skipped steps (not finite, no labels); and whether to fall back to an older
    # checkpoint if the newest one is damaged. Both may differ when a run is resumed.
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
