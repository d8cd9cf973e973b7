"""The LED of led_qmsum_4096 on whole meetings of up to 16,384 tokens, with batch size 1 and rematerialisation."""

from ml_collections import ConfigDict

from jaxmodels.experiments.configs import led_qmsum_4096


def get_config() -> ConfigDict:
    config = led_qmsum_4096.get_config()
    config.lengths.source = 16384
    config.steps = 60
    config.batch_size = 1
    config.optimizer.warmup = 20
    config.optimizer.learning_rate = 1e-3
    config.save_every = config.eval_every = 20
    config.eval_requests, config.test_requests, config.generate_rows = 4, 16, 2
    return config
