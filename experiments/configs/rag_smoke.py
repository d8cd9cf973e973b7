"""A few steps of tiny models: the whole experiment in a minute, for tests. data.path is a file of type data.kind."""

from ml_collections import ConfigDict

from jaxmodels.experiments.configs import rag_squad


def get_config() -> ConfigDict:
    config = rag_squad.get_config()
    config.data.held_out = 0.3
    config.start = ""
    config.tokenizer.vocab_size = 400
    config.model = ConfigDict(
        {
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "max_position_embeddings": 40,
        }
    )
    sizes = {"layers": 1, "attention_heads": 2, "ffn_dim": 32}
    stacks = {f"{stack}_{name}": size for stack in ("encoder", "decoder") for name, size in sizes.items()}
    config.generator.update({"start": "", "vocab_size": 400})
    config.generator.model = ConfigDict({"d_model": 16, **stacks})
    config.lengths.update({"question": 16, "passage": 40, "context": 64, "answer": 6})
    config.n_docs = 2
    config.reader.update({"steps": 4, "batch_size": 8, "log_every": 1, "save_every": 2, "eval_every": 4})
    config.joint.update({"steps": 6, "batch_size": 4, "log_every": 1, "save_every": 4, "eval_every": 4})
    config.joint.refresh_every = 2
    config.reader.optimizer.warmup = config.joint.optimizer.warmup = 2
    config.encode_rows, config.eval_questions, config.test_questions, config.generate_rows = 8, 8, 10, 8
    return config
