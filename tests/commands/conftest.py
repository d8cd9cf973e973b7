import pytest
from support import command_samples


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """checkpoints(family) -> a read-only folder with model and tokenizer, written once."""
    root = tmp_path_factory.mktemp("checkpoints")

    def folder(family: str):
        path = root / family
        return path if path.exists() else getattr(command_samples, family)(path)

    return folder
