"""RoBERTa-PreLayerNorm pretrained on English text (data.path) with 15% masking, like BERT and RoBERTa."""

from ml_collections import ConfigDict, FieldReference


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.task = "masked-lm"
    # Folder or Hub id of an initial checkpoint; "" for random parameters.
    config.init = ""
    # buckets: lengths in tokens to which batches are padded; each one is compiled once.
    config.data = ConfigDict({"kind": "english", "path": "", "field": "text", "held_out": 0.03, "buckets": (128,)})
    # path: folder or Hub id of a tokenizer; "": one with vocab_size tokens is trained.
    config.tokenizer = ConfigDict({"path": "", "vocab_size": 4096})
    # Share of masked tokens: in training, and in the held-out text.
    config.masking = ConfigDict({"rate": 0.15, "eval_rate": 0.15})

    # Model config, with Hugging Face's names. The masks differ in every epoch, so dropout is hardly needed.
    config.model = ConfigDict(
        {
            "hidden_size": 192,
            "num_hidden_layers": 3,
            "num_attention_heads": 3,
            "intermediate_size": 768,
            "max_position_embeddings": 130,
            "type_vocab_size": 1,
            "layer_norm_eps": 1e-5,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        }
    )
    # Run options.
    config.dtype = "float32"
    config.remat = FieldReference(False, field_type=object)  # or a policy: "dots", "dots_and_attention", ...
    config.sharding = ConfigDict({"mesh": ConfigDict({"data": -1}), "table": "DP", "changes": ConfigDict()})
    config.distributed = False

    config.steps = 800
    config.batch_size = 16
    config.microbatches = 1
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
    config.eval_every = 200
    # Maximum number of consecutive skipped steps (not finite, no labels); and whether to fall back to an older
    # checkpoint if the newest one is damaged. Both may differ when a run is resumed.
    config.max_skipped, config.skip_damaged = 10, False
    return config
