"""Train RoBERTa-PreLayerNorm: masked-LM pretraining, named entities (WNUT-17), intents (BANKING77).

What:      a small model (2.2 million parameters, 3 layers of width 192) on 5.2 MB of English text, then fine-tuned;
           --config.init=FOLDER starts from a checkpoint, "" from random parameters
Command:   jaxmodels run roberta_finetune --config=roberta_mlm_40 (or roberta_mlm_15,
           roberta_wnut17, roberta_banking77) --config.data.path=FOLDER; the last two with
           --config.init=runs/roberta_mlm_40/model. Required files and downloads: see data/published.py
"""

import sys
from functools import partial
from pathlib import Path

from ml_collections import FrozenConfigDict

from . import command
from .data import published
from .tasks.common import Task
from .tasks.entities import Entities
from .tasks.intents import Intents
from .tasks.masked_lm import MaskedLM
from .tasks.run import print_scores, run_task

TASKS: dict[str, type[Task]] = {"masked-lm": MaskedLM, "entities": Entities, "intents": Intents}


@command.run_once
def run(config: FrozenConfigDict, folder: Path) -> dict:
    """Run everything that is not done yet and return the result."""
    if config.task not in TASKS:
        raise ValueError(f"task is one of {', '.join(TASKS)}; got {config.task!r}")
    return run_task(config, folder, TASKS[config.task](config, folder))


def required_data(config: FrozenConfigDict) -> dict[str, str]:
    if config.task == "masked-lm":
        return published.data_by_kind(config)
    files = {"entities": published.WNUT17, "intents": published.BANKING77}
    return {"data.path": files[config.task]} if config.task in files else {}  # `run` rejects other tasks


def show(result: dict, _config: FrozenConfigDict, folder: Path) -> None:
    print_scores(result, folder)


main = partial(command.launch, run, show, "roberta_mlm_40", required_data)

if __name__ == "__main__":
    main(sys.argv[1:])
