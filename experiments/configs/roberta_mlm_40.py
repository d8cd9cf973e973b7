"""RoBERTa-PreLayerNorm pretrained on English text with 40% masking, which Wettig et al. (2022) found to be better."""

from ml_collections import ConfigDict

from jaxmodels.experiments.configs import roberta_mlm_15


def get_config() -> ConfigDict:
    config = roberta_mlm_15.get_config()
    config.masking.rate = 0.4
    return config
