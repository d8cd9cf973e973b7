"""RoBERTa-PreLayerNorm pretrained on English text (data.path), 15% of it masked, as BERT and RoBERTa were."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.task = "masked-lm"
    # Folder or Hub id of a checkpoint to go on from; "": from nothing.
    config.init = ""
    # buckets: lengths in tokens that batches are padded to, each compiled once.
    config.data = ConfigDict({"kind": "english", "path": "", "field": "text", "held_out": 0.03, "buckets": (128,)})
    # path: a folder or Hub id of a ready tokenizer instead of training one of vocab_size tokens.
    config.tokenizer = ConfigDict({"path": "", "vocab_size": 4096})
    # Share of the words that is hidden: in training, and in the held-out text.
    config.masking = ConfigDict({"rate": 0.15, "eval_rate": 0.15})

    # Facts of the model, by Hugging Face's names. Other words are hidden in every epoch, so there is little for dropout
    # to prevent.
    config.model = ConfigDict(
        {
            "hidden_size": 192,
            "num_hidden_layers": 3,
            "num_attention_heads": 3,
            "intermediate_size": 768,
            "max_position_embeddings": 130,
            "type_vocab_size": 1,
            "layer_norm_eps": 1e-5,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        }
    )
    # Choices of the run.
    config.dtype = "float32"
    config.remat = False
    config.sharding = ConfigDict({"mesh": ConfigDict({"data": -1}), "table": "DP", "changes": ConfigDict()})
    config.distributed = False

    config.steps = 800
    config.batch_size = 16
    config.microbatches = 1
    config.optimizer = ConfigDict(
        {
            "name": "muon",
            "learning_rate": 8e-3,
            "matrix_rate": 5.0,
            "warmup": 60,
            "final": 0.0,
            "b1": 0.9,
            "b2": 0.95,
            "weight_decay": 0.1,
            "clip": 1.0,
        }
    )

    config.log_every = 10
    config.save_every = 100
    config.eval_every = 200
    # So many steps on end may change nothing (not finite, no labels); where the newest checkpoint is damaged, the
    # newest one that is not may be taken. Both may change between two starts of a run.
    config.max_skipped, config.skip_damaged = 10, False
    return config
