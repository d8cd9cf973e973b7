"""Fine-tune a checkpoint, of a folder or the Hugging Face Hub, on your own data.

Command:   jaxmodels run finetune --config=finetune:text_classification --config.init=FOLDER --config.data.train=FILE
           and optionally --config.data.validation=FILE --config.data.test=FILE --workdir=FOLDER
Tasks:     text_classification (also of pairs), token_classification, causal_lm, masked_lm, span_corruption (T5's
           pretraining), denoising (BART's), question_answering, text_to_text (summaries and others), multiple_choice,
           dpr_biencoder: the part of --config after the colon
Data:      CSV, JSON lines, Parquet and others, see data/tables.py; --config.columns.NAME=COLUMN names the columns
LoRA:      --config.lora.rank=8, merged into the model, or with --config.lora.save=adapter in FOLDER/adapter, which
           jm.load_adapter and peft read; --config.freeze=PATTERN freezes parameters by the names in their paths
Output:    FOLDER/model, which jm.load and transformers read, the scores, and curves

The parameters with the best validation score are kept; --config.patience=N stops after N evaluations without a better
one. A run that is killed continues with the same command.
"""

import math
import sys
from functools import partial
from pathlib import Path

from ml_collections import ConfigDict, FrozenConfigDict

from . import command, failures
from .data import buckets, published
from .report import print0
from .tasks.denoising import DenoisingTask, SpanCorruptionTask
from .tasks.dense_retrieval import DenseRetrieval
from .tasks.from_tables import TableTask
from .tasks.language_modelling import CausalLanguageModelling, MaskedLanguageModelling
from .tasks.multiple_choice import MultipleChoice
from .tasks.question_answering import QuestionAnswering
from .tasks.run import print_scores, run_task
from .tasks.text_classification import TextClassification
from .tasks.text_to_text import TextToText
from .tasks.token_classification import TokenClassification

TASKS: dict[str, type[TableTask]] = {
    "text_classification": TextClassification,
    "token_classification": TokenClassification,
    "causal_lm": CausalLanguageModelling,
    "masked_lm": MaskedLanguageModelling,
    "span_corruption": SpanCorruptionTask,
    "denoising": DenoisingTask,
    "question_answering": QuestionAnswering,
    "text_to_text": TextToText,
    "multiple_choice": MultipleChoice,
    "dpr_biencoder": DenseRetrieval,
}


def in_steps(config: FrozenConfigDict, task: TableTask) -> FrozenConfigDict:
    """Return the config with what depends on the number of examples: steps instead of epochs and shares, and buckets.

    Raises:
      ValueError: Fewer examples than a batch has, a number that must be positive is not, or a share is none.
    """
    count, size = len(task.train.lengths), config.batch_size
    if not 0 < size <= count:
        raise ValueError(f"batch_size={size} must be at least 1 and at most the number of training examples, {count}")
    for name in ("epochs", "eval_epochs", "save_epochs"):
        if not config[name] > 0:
            raise ValueError(f"{name} must be above 0, got {config[name]}")
    if not 0 <= config.optimizer.warmup < 1:
        raise ValueError(f"optimizer.warmup is a share of the steps, below 1; got {config.optimizer.warmup}")
    resolved, per_epoch = ConfigDict(config).unlock(), count // size
    resolved.steps = math.ceil(config.epochs * per_epoch)
    resolved.eval_every = math.ceil(config.eval_epochs * per_epoch)
    resolved.save_every = math.ceil(config.save_epochs * per_epoch)
    resolved.optimizer = ConfigDict({**config.optimizer, "warmup": round(config.optimizer.warmup * resolved.steps)})
    longest = max((task.train, task.dev, task.test), key=lambda examples: examples.lengths.max())
    resolved.data.buckets = buckets.cover(longest, task.max_tokens)
    return FrozenConfigDict(resolved)


@command.run_once
def run(config: FrozenConfigDict, folder: Path) -> dict:
    """Run everything that is not done yet and return the result."""
    with failures.one_line_input_errors():
        task = TASKS[config.task](config, folder)
        config = in_steps(config, task)
    return run_task(config, folder, task)


def show(result: dict, config: FrozenConfigDict, folder: Path) -> None:
    """Print the scores, and how to use the model."""
    print_scores(result, folder)
    task, saved = TASKS[config.task], folder / "model"
    lines = task.usage_lines(saved)
    if config.lora.save == "adapter":
        saved = folder / "adapter"
        labels = f', id2label=jm.load_config("{saved}").id2label' if task.replaces_head else ""
        lines = [
            f'model, params = jm.load("{config.init}", cls="{task.model_class}"{labels})',
            f'params = jm.load_adapter("{saved}", model, params)',
            *task.usage_lines(saved)[1:],
        ]
    print0("\n" + "\n".join(lines))


def required_data(_config: FrozenConfigDict) -> dict[str, str]:
    return {"init": published.CHECKPOINT, "data.train": published.TABLE}


main = partial(command.launch, run, show, "finetune", required_data)

if __name__ == "__main__":
    main(sys.argv[1:])
