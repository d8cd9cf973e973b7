"""A small, randomly initialised LED on the first 4,096 tokens of QMSum's validation meetings."""

from ml_collections import ConfigDict, FieldReference


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    # path and transfer are required. train, test: files in path. transfer: a file of documents with summaries, used for
    # testing only, with the query transfer_query.
    config.data = ConfigDict(
        {
            "path": "",
            "train": "val.jsonl",
            "test": "test.jsonl",
            "transfer": "",
            "transfer_query": "Summarize the whole meeting.",
        }
    )
    # path: folder of a tokenizer; "": one with vocab_size tokens is trained on the training meetings.
    config.tokenizer = ConfigDict({"path": "", "vocab_size": 8192})
    # Maximum number of tokens. source: of query and document together. query: of the query, whose tokens are global.
    config.lengths = ConfigDict({"source": 4096, "query": 48, "summary": 128})
    # Config of LED, with Hugging Face's names.
    config.model = ConfigDict(
        {
            "d_model": 128,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 512,
            "decoder_ffn_dim": 512,
            "attention_window": 256,
            "dropout": 0.1,
        }
    )
    # Run options.
    config.dtype = "float32"
    config.remat = FieldReference(True, field_type=object)  # or a policy: "dots", "dots_and_attention", ...
    # A rule table of jaxmodels.sharding, overridden for the axes in `changes`, on a mesh of all devices.
    config.sharding = ConfigDict({"mesh": ConfigDict({"data": -1}), "table": "DP", "changes": ConfigDict()})
    config.distributed = False

    config.steps = 160
    config.batch_size = 2
    config.microbatches = 1
    config.optimizer = ConfigDict(
        {
            "name": "adamw",
            "learning_rate": 2e-3,
            "matrix_rate": 1.0,
            "warmup": 20,
            "final": 0.0,
            "b1": 0.9,
            "b2": 0.98,
            "weight_decay": 0.01,
            "clip": 1.0,
        }
    )

    config.log_every = 10
    config.save_every = config.eval_every = 40
    # Maximum number of consecutive skipped steps (not finite, no labels); and whether to fall back to an older
    # checkpoint if the newest one is damaged. Both may differ when a run is resumed.
    config.max_skipped, config.skip_damaged = 10, False
    config.eval_requests = 16  # test requests for the loss curve
    config.test_requests = 96  # maximum number of test requests for the scores, evenly spaced
    config.generate_rows = 8  # summaries generated per batch
    return config
