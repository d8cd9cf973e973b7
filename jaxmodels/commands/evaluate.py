"""Score a checkpoint on a file: perplexity of a language model, or a task that it was fine-tuned for.

The options after MODEL and DATA are those of `jaxmodels run finetune`, where scores depend on them:
--config.columns.NAME=COLUMN, --config.max_tokens, --config.dtype, --config.batch_size, --config.sharding, and those of
the task. --json FILE writes the scores to a file. Example: evaluate perplexity openai-community/gpt2 wiki.test.txt
--config.stride=512
"""

import argparse

from jaxmodels.commands.run import load_experiment

HELP = "score a checkpoint: perplexity, or a task that it was fine-tuned for"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("task", metavar="TASK", help="perplexity, or a task of finetune, such as text_classification")
    parser.add_argument("model", metavar="MODEL", help="folder or Hub id of the checkpoint")
    parser.add_argument("data", metavar="DATA", help="file or folder with the rows, such as CSV or JSON lines")
    parser.add_argument("options", nargs=argparse.REMAINDER, metavar="...", help="--json FILE, --config.KEY=VALUE")


def run(arguments: argparse.Namespace) -> None:
    """Prints the scores."""
    experiment = load_experiment("evaluate")
    experiment.run(arguments.task, arguments.model, arguments.data, arguments.options, quiet=arguments.quiet)
