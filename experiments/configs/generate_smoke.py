"""A few tokens for each prompt, two at a time, for tests. model.path and input are theirs."""

from ml_collections import ConfigDict

from experiments.configs import generate


def get_config() -> ConfigDict:
    config = generate.get_config()
    config.batch_size = 2
    config.generate.max_new_tokens = 6
    return config
