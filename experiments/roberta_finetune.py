"""Train RoBERTa-PreLayerNorm: masked-LM pretraining, named entities (WNUT-17), intents (BANKING77).

What:      a small model (2.2 million parameters, 3 layers of width 192) on 5.2 MB of English text, then fine-tuned;
           --config.init=FOLDER starts from a checkpoint, "" from random parameters
Command:   jaxmodels run roberta_finetune --config=roberta_mlm_40 (or roberta_mlm_15,
           roberta_wnut17, roberta_banking77) --config.data.path=FOLDER; the last two with
           --config.init=runs/roberta_mlm_40/model. Required files and downloads: see data/published.py
Hardware:  two virtual cores of an Intel Xeon, float32
Time:      19 minutes per pretraining, both at once along with other jobs; 3:45 per fine-tuning, alone
Score:     held-out masked words at 15%: loss 6.321, accuracy 0.118 after training with 15%, and 6.205, 0.127 with 40%;
           by word frequency alone 7.033, 0.040. One seed and 1.1 epochs do not show which rate is better.
           BANKING77: test accuracy 0.802, macro F1 0.801; TF-IDF with logistic regression 0.894 (better).
           WNUT-17: entity F1 on test 0.089 (precision 0.157, recall 0.062); entities of the training set 0.000. So
           little pretraining does not find new names. Neither was run without pretraining.
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
