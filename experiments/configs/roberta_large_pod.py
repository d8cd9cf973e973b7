"""RoBERTa-PreLayerNorm with the settings of RoBERTa-large (Liu et al. 2019, table 9), masked at 40%; on 64 chips.

Run the same command on every host of the slice, with the data and --workdir on a shared file system:
    jaxmodels run roberta_finetune --config=roberta_large_pod --workdir=... --config.data.path=...
"""

from ml_collections import ConfigDict

from jaxmodels.experiments.configs import roberta_mlm_40


def get_config() -> ConfigDict:
    config = roberta_mlm_40.get_config()
    config.data.update({"kind": "jsonl", "held_out": 0.0005, "buckets": (512,)})
    config.tokenizer.path = "FacebookAI/roberta-large"
    config.model.update({"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16})
    config.model.update({"intermediate_size": 4096, "max_position_embeddings": 514})
    config.model.update({"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1})
    config.dtype = "bfloat16"
    config.remat = True
    config.sharding.table = "FSDP"
    config.distributed = True

    config.batch_size = 8192
    config.microbatches = 8
    config.steps = 500_000
    config.optimizer.update(
        {"name": "adamw", "schedule": "linear", "learning_rate": 4e-4, "warmup": 30_000, "b2": 0.98}
    )
    config.optimizer.weight_decay = 0.01
    config.log_every, config.save_every, config.eval_every = 50, 1000, 5000
    return config
