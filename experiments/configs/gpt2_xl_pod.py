"""GPT-2 XL (1.56 billion parameters) on a TPU pod slice (a multiple of 64 chips), at the batch size of GPT-2's paper.

Run the same command on every host of the slice, with the data and --workdir on a shared file system:
    jaxmodels run gpt2_lm --config=gpt2_xl_pod --workdir=... --config.data.path=...
"""

from ml_collections import ConfigDict

from jaxmodels.experiments.configs import gpt2_demo


def get_config() -> ConfigDict:
    config = gpt2_demo.get_config()
    config.data.update({"kind": "jsonl", "held_out": 0.0005})
    config.tokenizer.path = "openai-community/gpt2"
    config.model.update({"n_positions": 1024, "n_embd": 1600, "n_layer": 48, "n_head": 25})

    # Parameters and optimizer state are float32 and sharded over all chips; the computation is in bfloat16.
    config.dtype = "bfloat16"
    # 5.5 of 16 GiB on v5e:16x16, and 104 ms of FLOPs at peak for a step; recomputing whole layers takes 126 ms.
    config.remat = "dots_and_attention"
    # 1600 is divisible by 64 but not by 256: four replicas of the model on 64 chips each; the batch is sharded over
    # all.
    changes = ConfigDict({"batch": ("data", "fsdp"), "embed": "fsdp"})
    config.sharding = ConfigDict({"mesh": ConfigDict({"data": -1, "fsdp": 64}), "table": "FSDP", "changes": changes})
    config.distributed = True

    config.batch_size = 512
    config.steps = 100_000
    config.optimizer.update({"name": "adamw", "learning_rate": 2e-4, "warmup": 2000, "final": 2e-5})
    config.log_every, config.save_every, config.eval_every, config.eval_windows = 50, 1000, 1000, 2048
    return config
