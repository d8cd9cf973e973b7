"""Fine-tuning of a checkpoint on a table of examples. The task is the argument: finetune:text_classification."""

from ml_collections import ConfigDict, config_dict

# The column of each name; --config.columns.NAME=COLUMN changes it.
COLUMNS = {
    "text_classification": {"text": "text", "text_pair": "", "label": "label"},
    "token_classification": {"tokens": "tokens", "tags": "tags"},
    "causal_lm": {"text": "text"},
    "masked_lm": {"text": "text"},
    "span_corruption": {"text": "text"},
    "denoising": {"text": "text"},
    "question_answering": {"question": "question", "context": "context", "answers": "answers"},
    "text_to_text": {"source": "source", "target": "target"},
    "multiple_choice": {"context": "context", "question": "", "choices": "choices", "label": "label"},
    "dpr_biencoder": {"question": "question", "positive": "positive", "negatives": ""},
    "dpr_reader": {"question": "question", "passages": "passages", "answers": "answers"},
}
# Settings of one task only.
OPTIONS = {
    # The reference's name: regression, multi_label_classification or single_label_classification; "" to choose by the
    # labels.
    "text_classification": {"problem_type": ""},
    # segments: several texts in a row, which do not see each other; windows: texts follow each other in windows of
    # max_tokens, and see those before; none: each text in a row of its own, with padding.
    "causal_lm": {"packing": "segments"},
    "masked_lm": {"packing": "segments", "masking_rate": 0.15},
    # Share of the tokens in spans, and the mean length of a span (Raffel et al. 2020).
    "span_corruption": {"noise_density": 0.15, "mean_span": 3.0},
    # Share of the tokens in spans, the mean of the Poisson distribution of their lengths (Lewis et al. 2020).
    "denoising": {"mask_rate": 0.3, "mean_span": 3.0, "permute_sentences": True},
    # Tokens by which windows of a context overlap, and of the longest answer.
    "question_answering": {"stride": 64, "max_answer_tokens": 30},
    # Negative passages of each question, besides those of the other questions in a batch; without a column of them they
    # are drawn from the negative_pool best ones of BM25. shared: one encoder for questions and passages.
    "dpr_biencoder": {"negatives": 1, "negative_pool": 10, "max_question_tokens": 64, "shared": False},
    # Passages of each question in a batch, and tokens of the longest answer.
    "dpr_reader": {"passages": 8, "max_answer_tokens": 10},
    # The prefix precedes each source, such as T5's "summarize: ".
    "text_to_text": {"prefix": "", "max_target_tokens": 64, "num_beams": 1},
}
# Low-rank adapters (LoRA). rank: None trains without them; targets: regular expression, which is found in the paths of
# the linear layers that get one; save: "merged" into the model, or "adapter" in PEFT's format.
LORA = {"rank": None, "alpha": 16.0, "targets": "attention|feed_forward", "save": "merged"}


def get_config(task: str = "text_classification") -> ConfigDict:
    """Return the config of a task.

    Raises:
      ValueError: An unknown task.
    """
    if task not in COLUMNS:
        raise ValueError(f"the task after finetune: is one of {', '.join(COLUMNS)}; got {task!r}")
    config = ConfigDict()
    config.seed = 0
    config.task = task
    # Folder or Hub id of the checkpoint.
    config.init = ""
    # Start from random parameters; config and tokenizer are those of init.
    config.from_scratch = False
    # Files, folders, or data sets of the Hugging Face Hub as ID:SPLIT or ID:CONFIG:SPLIT, see data/tables.py. Without a
    # validation set, the share held_out of the training rows is one. streaming: read training rows piece by piece,
    # `buffer` of them at a time, which are shuffled; epoch_steps steps count as an epoch.
    config.data = ConfigDict({"train": "", "validation": "", "test": "", "held_out": 0.1})
    config.data.update({"streaming": False, "buffer": 10_000, "epoch_steps": 1000})
    config.columns = ConfigDict(COLUMNS[task])
    # Maximum number of tokens of an input; longer ones are truncated.
    config.max_tokens = 256
    config.update(OPTIONS.get(task, {}))
    # Changes of the model config, such as dropout.
    config.model = ConfigDict()

    config.lora = ConfigDict({**LORA, "rank": config_dict.placeholder(int)})
    # Regular expression: parameters in whose path it is found are not trained, such as "embeddings|layers/attention".
    config.freeze = ""

    # Run options; parameters are float32 in any case. float16 scales the loss dynamically.
    config.dtype = "float32"
    config.remat = config_dict.FieldReference(False, field_type=object)  # or a policy: "dots", ...
    config.sharding = ConfigDict({"mesh": ConfigDict({"data": -1}), "table": "DP", "changes": ConfigDict()})
    config.distributed = False

    config.epochs = 3.0
    config.batch_size = 16
    config.microbatches = 1
    # warmup: share of the steps; schedule: linear, cosine or constant.
    config.optimizer = ConfigDict(
        {
            "name": "adamw",
            "schedule": "linear",
            "learning_rate": 5e-5,
            "warmup": 0.06,
            "final": 0.0,
            "b1": 0.9,
            "b2": 0.999,
            "weight_decay": 0.01,
            "clip": 1.0,
        }
    )

    # The parameters with the best validation score are kept. Stop after so many evaluations without a better one; 0 for
    # never.
    config.patience = 0
    config.log_every = 10
    # Evaluate and save every so many epochs.
    config.eval_epochs = 1.0
    config.save_epochs = 1.0
    config.max_skipped, config.skip_damaged = 10, False
    return config
