"""RAG on Natural Questions with 6854 gold passages (data.path), like rag_squad; an hour on two CPU cores."""

from ml_collections import ConfigDict

from jaxmodels.experiments.configs import rag_squad


def get_config() -> ConfigDict:
    config = rag_squad.get_config()
    config.data.kind = "nq"
    config.reader.steps = 80
    # Encoding all passages takes minutes, so they are encoded at the beginning only.
    config.joint.steps = config.joint.refresh_every = 40
    config.test_questions = 200
    return config
