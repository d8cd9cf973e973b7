"""A few tokens per prompt, two prompts per batch, for tests. model.path and input have to be set."""

from ml_collections import ConfigDict

from jaxmodels.experiments.configs import generate


def get_config() -> ConfigDict:
    config = generate.get_config()
    config.batch_size = 2
    config.generate.max_new_tokens = 6
    return config
