"""A small LED from random numbers on QMSum's validation meetings, their first 4,096 tokens; tested on the test ones."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    # path and transfer are to be given. train, test: files in path. transfer: a file of documents with summaries that
    # nothing is trained on, asked transfer_query.
    config.data = ConfigDict(
        {
            "path": "",
            "train": "val.jsonl",
            "test": "test.jsonl",
            "transfer": "",
            "transfer_query": "Summarize the whole meeting.",
        }
    )
    # path: a folder of a ready tokenizer; "": one of vocab_size is trained on the training meetings.
    config.tokenizer = ConfigDict({"path": "", "vocab_size": 8192})
    # Tokens. source: query and document together; what is longer is cut. query: global tokens that there is room for.
    config.lengths = ConfigDict({"source": 4096, "query": 48, "summary": 128})
    # Facts of the LED by Hugging Face's names.
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
    # Choices of the run.
    config.dtype = "float32"
    config.remat = True
    # A rule table of jaxmodels.sharding, changed for the axes in `changes`, on a mesh of all devices.
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
    # So many steps on end may change nothing (not finite, no labels); where the newest checkpoint is damaged, the
    # newest one that is not may be taken. Both may change between two starts of a run.
    config.max_skipped, config.skip_damaged = 10, False
    config.eval_requests = 16  # of the test, for the curve
    config.test_requests = 96  # for the scores, at most; fewer are spread evenly
    config.generate_rows = 8  # summaries written at a time
    return config
