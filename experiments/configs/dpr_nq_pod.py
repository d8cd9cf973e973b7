"""DPR on Natural Questions with the settings of its paper (Karpukhin et al. 2020, section 5); on 8 chips or more.

The data are biencoder-nq-train.json; hard negatives are those of BM25 among its passages. On several hosts, run the
same command on each, with --config.distributed=True:
    jaxmodels run dpr_retrieval --config=dpr_nq_pod --workdir=... --config.data.path=...
"""

from ml_collections import ConfigDict

from jaxmodels.experiments.configs import dpr_squad_minilm


def get_config() -> ConfigDict:
    config = dpr_squad_minilm.get_config()
    config.data.update({"kind": "dpr", "held_out": 0.05})
    config.start = "google-bert/bert-base-uncased"
    config.lengths.update({"question": 256, "passage": 256})
    config.dtype = "bfloat16"
    config.sharding.table = "FSDP"

    config.batch_size = 128
    config.negatives = 1
    # 40 epochs of 58,880 questions.
    config.steps = 18_400
    config.optimizer.update(
        {"schedule": "linear", "learning_rate": 1e-5, "warmup": 1000, "weight_decay": 0.0, "clip": 2.0}
    )
    config.log_every = 50
    config.save_every = config.eval_every = 1000
    config.encode_rows = 1024
    return config
