"""From a saved folder to a repository of the Hub."""

from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from jaxmodels.hub.card import CARD
from jaxmodels.tensor_files.file_sets import FILE_SETS
from jaxmodels.wording import brief, cut

# What a folder may hold beside a model is its owner's, and stays here.
UPLOADED = (CARD, *FILE_SETS["config"], *FILE_SETS["weights"], *FILE_SETS["tokenizer"])
TOKENIZERS = tuple(f"*_tokenizer/{name}" for name in FILE_SETS["tokenizer"])  # of a RAG
# What an earlier push may have left there, and a later load would read.
REPLACED = (*FILE_SETS["config"], *FILE_SETS["weights"])


def check_repository(name: object) -> str:
    """The name, if it can be one.

    Raises:
      TypeError, ValueError: it cannot.
    """
    if not isinstance(name, str):
        raise TypeError(f"push_to_hub is a repository's name, like 'user/name', got {brief(name)}")
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ValueError(f"push_to_hub is a repository's name, like 'user/name': {cut(str(error))}") from None
    return name


def push(
    folder: Path,
    repository: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    commit_message: str | None = None,
    api: Any = None,
) -> None:
    """Makes the repository, where there is none, and uploads the checkpoint, its card and its tokenizers in one commit.

    Args:
      private: for a new repository; None is the owner's default. api: `huggingface_hub`, or an `HfApi`.

    Raises:
      OSError: whatever went wrong; the folder stays as it is.
    """
    api = huggingface_hub if api is None else api
    try:
        api.create_repo(repository, token=token, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message=commit_message or "Upload of a jaxmodels checkpoint",
            token=token,
            allow_patterns=[*UPLOADED, *TOKENIZERS],
            delete_patterns=list(REPLACED),
        )
    except Exception as error:  # of the network, the Hub or the token: of types that huggingface_hub's releases change
        raise OSError(
            f"{folder} holds the checkpoint, but {repository} did not get it ({type(error).__name__}: "
            f"{cut(' '.join(str(error).split()), 400)}). With a network, and token= or `hf auth login`, save again, or "
            f"upload it: hf upload {repository} {folder}"
        ) from error
