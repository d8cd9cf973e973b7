"""RAG on Natural Questions with gold passages (6854 of them), as rag_squad: in an hour on two CPU cores."""

from ml_collections import ConfigDict

from experiments.configs import rag_squad


def get_config() -> ConfigDict:
    config = rag_squad.get_config()
    config.data.update({"kind": "nq", "path": "../shared/data/qa/nq_gold/train.jsonl"})
    config.reader.steps = 80
    # Encoding all passages takes minutes: they are encoded at the beginning only.
    config.joint.steps = config.joint.refresh_every = 40
    config.test_questions = 200
    return config
