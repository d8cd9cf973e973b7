"""RAG on Natural Questions with gold passages (data.path), from MiniLM and BART-base; for accelerators."""

from ml_collections import ConfigDict

from jaxmodels.experiments.configs import rag_squad


def get_config() -> ConfigDict:
    config = rag_squad.get_config()
    config.data.kind = "nq"
    config.generator.start = "facebook/bart-base"
    config.generator.model = ConfigDict()
    config.lengths.update({"passage": 256, "context": 300, "answer": 16})
    config.dtype = "bfloat16"
    config.reader.update({"steps": 600, "save_every": 200, "eval_every": 200})
    config.reader.optimizer.update({"learning_rate": 3e-5, "warmup": 60})
    config.joint.update({"steps": 1000, "batch_size": 16, "save_every": 200, "eval_every": 200, "refresh_every": 200})
    config.joint.optimizer.update({"learning_rate": 1e-5, "warmup": 100})
    config.num_beams = 4
    return config
