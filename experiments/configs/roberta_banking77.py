"""Intents of BANKING77 (folder data.path), from the checkpoint of a masked-LM run.

From scratch: --config.init= --config.tokenizer.path=runs/roberta_mlm_40/model (without a path, a tokenizer is trained).
"""

from ml_collections import ConfigDict

from jaxmodels.experiments.configs import roberta_wnut17


def get_config() -> ConfigDict:
    config = roberta_wnut17.get_config()
    config.task = "intents"
    config.data = ConfigDict({"path": "", "held_out": 0.05, "buckets": (12, 16, 24, 48, 128)})
    config.steps = 2000
    config.eval_every = 200
    return config
