"""Evaluation of a checkpoint. The task is the argument: evaluate:perplexity, or one of the tasks of finetune."""

from ml_collections import ConfigDict

from jaxmodels.experiments.configs import finetune

# Settings of fine-tuning that scores depend on.
SHARED = ("columns", "max_tokens", "dtype", "sharding", "batch_size")
PERPLEXITY = {
    # Maximum number of tokens of a window; at most those of the model.
    "max_tokens": 1024,
    # Tokens of a causal language model by which windows move, the others being context; 0 for windows without overlap.
    "stride": 0,
    "batch_size": 8,
}


def get_config(task: str = "perplexity") -> ConfigDict:
    """Return the config of a task.

    Raises:
      ValueError: An unknown task.
    """
    if task not in ("perplexity", *finetune.COLUMNS):
        raise ValueError(f"the task is one of perplexity, {', '.join(finetune.COLUMNS)}; got {task!r}")
    trained = finetune.get_config("causal_lm" if task == "perplexity" else task)
    config = ConfigDict({name: trained[name] for name in SHARED})
    config.task = task
    config.update(PERPLEXITY if task == "perplexity" else finetune.OPTIONS.get(task, {}))
    return config
