"""Tiny parts: the whole job in seconds, for tests. data.path and encoder have to be set."""

from ml_collections import ConfigDict

from jaxmodels.experiments.configs import encode_squad


def get_config() -> ConfigDict:
    config = encode_squad.get_config()
    config.data.passage_words = 20
    config.encoder = ""
    config.length, config.rows, config.part_rows = 32, 4, 6
    return config
