"""Short runs of experiments.finetune in this process."""

import json
from pathlib import Path

import pytest
from ml_collections import FrozenConfigDict

import jaxmodels as jm
from experiments import finetune
from experiments.configs.finetune import get_config


def settings(task: str, init, train, /, **changes) -> FrozenConfigDict:
    """Return the settings of a short run; `changes` are dotted names."""
    config = get_config(task)
    config.init, config.data.train = str(init), str(train)
    config.batch_size, config.max_tokens, config.epochs = 8, 24, 5.0
    config.optimizer.learning_rate = 0.01
    config.data.held_out = 0.25
    config.update_from_flattened_dict(changes)
    return FrozenConfigDict(config)


def finish(task: str, init, train, folder: Path, /, **changes) -> tuple:
    """Run to the end; return the result, and the saved model, parameters and tokenizer."""
    folder.mkdir(exist_ok=True)
    result = finetune.run(settings(task, init, train, **changes), folder)
    assert result["different_after_reload"] == 0
    return result, *jm.load(folder / "model"), jm.load_tokenizer(folder / "model")


def refused(task: str, init, train, folder: Path, /, **changes) -> str:
    """Return the message of a run that must end with one line."""
    with pytest.raises(SystemExit) as raised:
        finetune.run(settings(task, init, train, **changes), folder)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def write_lines(file: Path, rows: list[dict]) -> Path:
    """Write JSON lines."""
    file.write_text("\n".join(map(json.dumps, rows)))
    return file
