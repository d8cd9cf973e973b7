"""Named entities of WNUT-17 (folder data.path), from the checkpoint of a masked-LM run.

From scratch: --config.init= --config.tokenizer.path=runs/roberta_mlm_40/model (without a path, a tokenizer is trained).
"""

from ml_collections import ConfigDict

from jaxmodels.experiments.configs import roberta_mlm_15


def get_config() -> ConfigDict:
    config = roberta_mlm_15.get_config()
    config.task = "entities"
    config.init = "runs/roberta_mlm_40/model"
    config.data = ConfigDict({"path": "", "buckets": (16, 32, 48, 64, 128)})
    del config.masking
    config.model.update({"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1})

    config.steps = 1000
    config.batch_size = 32
    config.optimizer.update({"name": "adamw", "learning_rate": 5e-4, "b2": 0.99, "warmup": 100, "weight_decay": 0.01})
    config.save_every, config.eval_every = 100, 100
    return config
