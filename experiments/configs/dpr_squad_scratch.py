"""A small, randomly initialised DPR on the SQuAD dev set (data.path); works offline."""

from ml_collections import ConfigDict, FieldReference


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    # kind: squad, dpr (DPR's JSON) or text (a folder, split into passages of passage_words; sentences are the
    # questions). held_out: share of the groups (articles, questions, files) whose questions are the test set.
    config.data = ConfigDict(
        {
            "kind": "squad",
            "path": "",
            "passage_words": 100,
            "held_out": 0.25,
        }
    )
    # Initial checkpoint: "" for random parameters, a folder or Hub id, or "package:NAME" for a Python package.
    config.start = ""
    # path: folder or Hub id of a tokenizer; "": that of config.start, or else one with vocab_size tokens is trained.
    config.tokenizer = ConfigDict({"path": "", "vocab_size": 8000})
    config.lengths = ConfigDict({"question": 32, "passage": 192})  # tokens; longer texts are truncated
    # Config of the encoders, with Hugging Face's names; with config.start, the fields to override.
    config.model = ConfigDict(
        {
            "hidden_size": 192,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "intermediate_size": 768,
            "max_position_embeddings": 192,
            "hidden_dropout_prob": 0.1,
            "attention_probs_dropout_prob": 0.1,
        }
    )
    config.shared = True  # one encoder for questions and passages, unlike DPR
    # Run options.
    config.dtype = "float32"
    config.remat = FieldReference(False, field_type=object)  # or a policy: "dots", "dots_and_attention", ...
    # A rule table of jaxmodels.sharding, overridden for the axes in `changes`, on a mesh of all devices.
    config.sharding = ConfigDict({"mesh": ConfigDict({"data": -1}), "table": "DP", "changes": ConfigDict()})
    config.distributed = False

    config.steps = 300
    config.batch_size = 64
    config.microbatches = 1  # more parts take less memory; above 1, there is a second forward pass
    config.negatives = 1  # hard negatives per question, drawn from the top negative_pool of BM25
    config.negative_pool = 10
    config.optimizer = ConfigDict(
        {
            "name": "adamw",
            "learning_rate": 1e-3,
            "matrix_rate": 1.0,
            "warmup": 30,
            "final": 0.0,
            "b1": 0.9,
            "b2": 0.98,
            "weight_decay": 0.01,
            "clip": 1.0,
        }
    )

    config.log_every = 10
    config.save_every = config.eval_every = 50
    # Maximum number of consecutive skipped steps (not finite, no labels); and whether to fall back to an older
    # checkpoint if the newest one is damaged. Both may differ when a run is resumed.
    config.max_skipped, config.skip_damaged = 10, False
    config.encode_rows = 64  # texts encoded at a time for the search
    return config
