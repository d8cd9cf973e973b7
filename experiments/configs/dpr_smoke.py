"""Twelve steps of a tiny model: the whole experiment in seconds, for tests. data.path is a file of type data.kind."""

from ml_collections import ConfigDict

from jaxmodels.experiments.configs import dpr_squad_scratch


def get_config() -> ConfigDict:
    config = dpr_squad_scratch.get_config()
    config.data.update({"held_out": 0.3, "passage_words": 30})
    config.tokenizer.vocab_size = 400
    config.lengths.update({"question": 16, "passage": 40})
    config.model.update(
        {
            "hidden_size": 16,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "max_position_embeddings": 40,
        }
    )
    config.shared = False
    config.steps = 12
    config.batch_size, config.microbatches = 8, 2
    config.optimizer.warmup = 4
    config.log_every, config.save_every, config.eval_every, config.encode_rows = 2, 3, 4, 16
    return config
