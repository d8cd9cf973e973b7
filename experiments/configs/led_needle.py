"""A fact in a sequence of 4,096 tokens: a small LED with and without global attention."""

from ml_collections import ConfigDict, FieldReference


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    # facts: number of facts in a text, one of which is queried (fewer if the text is too short). apart: minimum
    # distance.
    config.data = ConfigDict({"words": 64, "key_words": 16, "value_words": 16, "facts": 1, "apart": 32})
    # Config of LED, with Hugging Face's names.
    config.model = ConfigDict(
        {
            "d_model": 64,
            "encoder_layers": 2,
            "decoder_layers": 1,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 128,
            "decoder_ffn_dim": 128,
            "attention_window": 32,
            "dropout": 0.0,
            "init_std": 0.05,
        }
    )
    config.remat = FieldReference(False, field_type=object)  # or a policy: "dots", "dots_and_attention", ...
    config.distributed = False

    # (last step, length in tokens) of each stage; the final length is tested.
    config.curriculum = ((100, 64), (200, 256), (300, 1024), (400, 4096))
    config.steps = 400
    config.batch_tokens = 4096
    config.optimizer = ConfigDict(
        {
            "name": "adamw",
            "learning_rate": 2e-3,
            "matrix_rate": 1.0,
            "warmup": 50,
            "final": 0.0,
            "b1": 0.9,
            "b2": 0.98,
            "weight_decay": 0.01,
            "clip": 1.0,
        }
    )
    # distances: tokens from the question to the answer. rows: texts per batch. batches: batches per distance.
    config.test = ConfigDict(
        {"distances": (4, 8, 16, 24, 32, 40, 64, 128, 256, 512, 1024, 2048, 4093), "rows": 8, "batches": 8}
    )
    config.log_every = 10
    config.save_every = config.eval_every = 100
    # Maximum number of consecutive skipped steps (not finite, no labels); and whether to fall back to an older
    # checkpoint if the newest one is damaged. Both may differ when a run is resumed.
    config.max_skipped, config.skip_damaged = 10, False
    return config
