"""LED-large on arXiv's summaries at 16,384 tokens (Beltagy et al. 2020, section 7), on the 8 chips of a host.

The columns are those of the data set ccdv/arxiv-summarization of the Hugging Face Hub, as save_to_disk or Parquet:
    jaxmodels run finetune --config=led_arxiv_pod --config.data.train=... --config.data.validation=... \\
        --config.data.test=...
"""

from ml_collections import ConfigDict

from jaxmodels.experiments.configs import finetune


def get_config() -> ConfigDict:
    config = finetune.get_config("text_to_text")
    config.init = "allenai/led-large-16384"
    config.columns.update({"source": "article", "target": "abstract"})
    config.max_tokens, config.max_target_tokens, config.num_beams = 16_384, 512, 4
    config.dtype = "bfloat16"
    config.remat = True
    config.sharding.table = "FSDP"
    config.epochs, config.batch_size = 3.0, 8
    config.optimizer.update({"learning_rate": 3e-5, "warmup": 0.03})
    config.eval_epochs = config.save_epochs = 0.1
    return config
