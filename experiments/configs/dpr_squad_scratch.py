"""A small DPR from random numbers on SQuAD's dev file, data.path; offline, nothing but the file is needed."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    # kind: squad, dpr (DPR's JSON) or text (a folder; passages of passage_words, their sentences are the questions).
    # held_out: share of the groups (articles, questions, files) whose questions are the test.
    config.data = ConfigDict(
        {
            "kind": "squad",
            "path": "",
            "passage_words": 100,
            "held_out": 0.25,
        }
    )
    # What training starts from: "" for random numbers, a folder or Hub id, or "package:NAME" for a Python package.
    config.start = ""
    # path: a folder or Hub id of a ready tokenizer; "": that of config.start, or else one of vocab_size is trained.
    config.tokenizer = ConfigDict({"path": "", "vocab_size": 8000})
    config.lengths = ConfigDict({"question": 32, "passage": 192})  # tokens; what is longer is cut
    # Facts of the encoders by Hugging Face's names; with config.start, those that change.
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
    config.shared = True  # one encoder for questions and passages, which DPR's two are not
    # Choices of the run.
    config.dtype = "float32"
    config.remat = False
    # A rule table of jaxmodels.sharding, changed for the axes in `changes`, on a mesh of all devices.
    config.sharding = ConfigDict({"mesh": ConfigDict({"data": -1}), "table": "DP", "changes": ConfigDict()})
    config.distributed = False

    config.steps = 300
    config.batch_size = 64
    config.microbatches = 1  # parts that the batch is encoded in: more take less memory, and a second forward pass
    config.negatives = 1  # hard ones for each question, drawn from its best negative_pool by BM25
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
    # So many steps on end may change nothing (not finite, no labels); where the newest checkpoint is damaged, the
    # newest one that is not may be taken. Both may change between two starts of a run.
    config.max_skipped, config.skip_damaged = 10, False
    config.encode_rows = 64  # texts encoded at a time for the search
    return config
