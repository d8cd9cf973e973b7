"""Twelve steps of a tiny model on any of the tasks, in seconds, for tests.

The task is the argument: --config=roberta_smoke:masked-lm (entities, intents), with data.path.
"""

from ml_collections import ConfigDict

from jaxmodels.experiments.configs import roberta_banking77, roberta_mlm_40, roberta_wnut17

CONFIGS = {"masked-lm": roberta_mlm_40, "entities": roberta_wnut17, "intents": roberta_banking77}


def get_config(task: str) -> ConfigDict:
    config = CONFIGS[task].get_config()
    config.init = ""
    config.tokenizer.vocab_size = 300
    config.model.update(
        {
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "max_position_embeddings": 34,
            "hidden_dropout_prob": 0.1,
        }
    )
    config.data.buckets = (32,) if task == "masked-lm" else (16, 32)
    if task == "masked-lm":
        config.data.update({"kind": "text", "held_out": 0.3})
    if task == "intents":
        config.data.held_out = 0.2
    config.steps, config.batch_size = 12, 4
    config.optimizer.warmup = 4
    config.log_every, config.save_every, config.eval_every = 2, 3, 4
    return config
