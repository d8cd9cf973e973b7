"""Fine-tune a checkpoint, of a folder or the Hugging Face Hub, on your own data.

Command:   jaxmodels run finetune --config=finetune:text_classification --config.init=FOLDER --config.data.train=FILE
           and optionally --config.data.validation=FILE --config.data.test=FILE --workdir=FOLDER
Tasks:     text_classification (also of pairs), token_classification, causal_lm, masked_lm, span_corruption (T5's
           pretraining), denoising (BART's), question_answering, text_to_text (summaries and others), multiple_choice,
           dpr_biencoder, dpr_reader: the part of --config after the colon
Data:      CSV, JSON lines, Parquet and others, and data sets of the Hugging Face Hub as ID:SPLIT, see data/tables.py;
           --config.columns.NAME=COLUMN names the columns
LoRA:      --config.lora.rank=8, merged into the model, or with --config.lora.save=adapter in FOLDER/adapter, which
           jm.load_adapter and peft read; --config.freeze=PATTERN freezes parameters by the names in their paths
Output:    FOLDER/model, which jm.load and transformers read, the scores, and curves

The parameters with the best validation score are kept; --config.patience=N stops after N evaluations without a better
one. A run that is killed continues with the same command.
"""

import math
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict

from . import command, failures
from .configs.finetune import get_config
from .data import buckets, hub_datasets, published, tables
from .data.tables import Source
from .report import print0
from .tasks.denoising import DenoisingTask, SpanCorruptionTask
from .tasks.dense_retrieval import DenseRetrieval
from .tasks.from_tables import TableTask
from .tasks.language_modelling import CausalLanguageModelling, MaskedLanguageModelling
from .tasks.multiple_choice import MultipleChoice
from .tasks.question_answering import QuestionAnswering
from .tasks.reader import Reader
from .tasks.run import print_scores, run_task
from .tasks.text_classification import TextClassification
from .tasks.text_to_text import TextToText
from .tasks.token_classification import TokenClassification
from .workdir import open_workdir

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
    "dpr_reader": Reader,
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
    streaming, per_epoch = config.data.streaming, count // size
    if streaming:
        per_epoch = config.data.epoch_steps
    resolved = ConfigDict(config).unlock()
    resolved.steps = math.ceil(config.epochs * per_epoch)
    resolved.eval_every = math.ceil(config.eval_epochs * per_epoch)
    resolved.save_every = math.ceil(config.save_epochs * per_epoch)
    resolved.optimizer = ConfigDict({**config.optimizer, "warmup": round(config.optimizer.warmup * resolved.steps)})
    longest = max((task.train, task.dev, task.test), key=lambda examples: examples.lengths.max())
    # The lengths of rows that are not read yet are unknown.
    covered = buckets.up_to(task.max_tokens, task.max_tokens) if streaming else buckets.cover(longest, task.max_tokens)
    resolved.data.buckets = covered
    return FrozenConfigDict(resolved)


@command.run_once
def run(config: FrozenConfigDict, folder: Path) -> dict:
    """Run everything that is not done yet and return the result."""
    with failures.one_line_input_errors():
        task = TASKS[config.task](config, folder)
        config = in_steps(config, task)
    return run_task(config, folder, task)


def fine_tune(task: str, init: str | Path, data: Mapping[str, Source], folder: str | Path, **changes: Any) -> dict:
    """Fine-tune a checkpoint on data sets in memory, on streams, or on files; what the command does, for Python.

    Args:
      task: One of TASKS.
      init: Folder or Hub id of the checkpoint.
      data: "train", and optionally "validation" and "test": objects `Dataset` or `IterableDataset` of the package
        `datasets`, or names as on the command line.
      folder: The output folder; the model is in its folder "model". A run that was killed continues.
      **changes: Other settings of configs/finetune.py by their dotted names.

    Returns:
      The result, with "scores" by model and baseline.

    Raises:
      ValueError, TypeError, OSError: Invalid settings or data, or a folder of another run.
    """
    config = get_config(task)
    config.init = str(init)
    config.data.update({split: tables.name_of(source) for split, source in data.items() if split in config.data})
    config.update_from_flattened_dict(changes)
    frozen, path = FrozenConfigDict(config), Path(folder)

    @command.run_once
    def run_on(config: FrozenConfigDict, folder: Path) -> dict:
        task = TASKS[config.task](config, folder, data)
        return run_task(in_steps(config, task), folder, task)

    with open_workdir(path, frozen, fresh=False):
        return run_on(frozen, path)


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


def required_data(config: FrozenConfigDict) -> dict[str, str]:
    named = hub_datasets.is_named(config.data.train)
    return {"init": published.CHECKPOINT} | ({} if named else {"data.train": published.TABLE})


main = partial(command.launch, run, show, "finetune", required_data)

if __name__ == "__main__":
    main(sys.argv[1:])
