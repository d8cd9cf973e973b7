"""Run an experiment: training, an evaluation or a batch job, with a config, in an output folder.

`jaxmodels run EXPERIMENT --help` lists its options, and what it measured on which hardware. The experiments need
packages of their own: pip install 'jaxmodels[experiments]'.
"""

import argparse
import importlib
from types import ModuleType

HELP = "run an experiment: training, an evaluation or a batch job"
EXPERIMENTS = {
    "dpr_retrieval": "train a dense passage retriever",
    "encode_corpus": "encode a corpus of passages into an index on disk",
    "finetune": "fine-tune any checkpoint on your own data",
    "generate": "generate texts for a file of prompts",
    "gpt2_lm": "train a GPT-2 from scratch",
    "led_needle": "measure how far away LED finds a fact",
    "led_summarize": "train LED to summarise meetings",
    "rag_qa": "train RAG end to end",
    "reinforce": "train a GPT-2 by policy gradient",
    "roberta_finetune": "train RoBERTa-PreLayerNorm: masked words, entities, intents",
}
# Other errors keep their traceback: an experiment is code to edit.
ERRORS = (ImportError,)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "\n".join(["experiments:", *(f"  {name:18}{text}" for name, text in EXPERIMENTS.items())])
    parser.add_argument(
        "experiment", choices=EXPERIMENTS, metavar="EXPERIMENT", help="name of the experiment, see below"
    )
    parser.add_argument("options", nargs=argparse.REMAINDER, metavar="...", help="options of the experiment")


def run(arguments: argparse.Namespace) -> None:
    """Runs the experiment in this process."""
    load_experiment(arguments.experiment).main([*["--quiet"] * arguments.quiet, *arguments.options])


def load_experiment(name: str) -> ModuleType:
    """Imports a module of the experiments.

    Raises:
      ImportError: a package of theirs is not installed.
    """
    try:
        return importlib.import_module(f"jaxmodels.experiments.{name}")
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package == "jaxmodels":
            raise
        raise ImportError(f"{name} needs {package}: pip install 'jaxmodels[experiments]'") from error
