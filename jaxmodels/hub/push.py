"""Uploading a saved folder to a repository of the Hub, with a model card."""

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxmodels.architectures.base import Model
from jaxmodels.download import HubToken
from jaxmodels.messages import brief, truncate
from jaxmodels.tensor_files.atomic_save import FILE_SETS

CARD = "README.md"
_MARKER = "<!-- written by jaxmodels, sha256 "
# Other files in the folder are not uploaded.
UPLOADED = (CARD, *FILE_SETS["config"], *FILE_SETS["weights"], *FILE_SETS["tokenizer"])
TOKENIZERS = tuple(f"*_tokenizer/{name}" for name in FILE_SETS["tokenizer"])  # of a RAG
# Files of an earlier push, which loading would read.
REPLACED = (*FILE_SETS["config"], *FILE_SETS["weights"])


def write_card(folder: Path, model: Model, params: Mapping[str, Any], repository: str) -> None:
    """Writes README.md, unless there is one that was not written by this function or was edited since.

    Args:
      folder: folder of the checkpoint.
      model: the saved model.
      params: its parameters, flattened.
      repository: Hub id.
    """
    path = folder / CARD
    if path.exists() and not _is_generated(path):
        return
    body = _card(model, params, repository)
    draft = folder / f".{CARD}.draft"
    draft.write_text(f"{body}{_MARKER}{_digest(body)} -->\n", encoding="utf-8")
    draft.replace(path)


def _is_generated(path: Path) -> bool:
    body, marker, digest = path.read_text(encoding="utf-8", errors="replace").rpartition(_MARKER)
    return bool(marker) and digest == f"{_digest(body)} -->\n"


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()


def _card(model: Model, params: Mapping[str, Any], repository: str) -> str:
    """The text of the card, without what is unknown, such as the licence."""
    name, model_type = type(model).__name__, model.config.model_type
    dtypes = sorted({np.dtype(leaf.dtype).name for leaf in params.values()})
    count = sum(math.prod(leaf.shape) for leaf in params.values())
    return f"""---
library_name: jaxmodels
tags:
- jaxmodels
- jax
- safetensors
- {model_type}
---

# {repository.rpartition("/")[2]}

| property | value |
|---|---|
| class | `{name}` |
| model type | `{model_type}` |
| parameters | {count:,} |
| dtypes | {", ".join(dtypes)} |

```python
import jaxmodels as jm

model, params = jm.load("{repository}")
```

The files are in the format of `transformers`, which loads them as `{name}`.

Configuration, where it differs from the defaults of the model type:

```python
{model.config!r}
```

"""


def check_repository(name: object) -> str:
    """Returns the name if it is a valid Hub id.

    Raises:
      TypeError, ValueError: it is not.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if not isinstance(name, str):
        raise TypeError(f"push_to_hub must be the name of a repository, like 'user/name', got {brief(name)}")
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ValueError(
            f"push_to_hub must be the name of a repository, like 'user/name': {truncate(str(error))}"
        ) from None
    return name


def push(
    folder: Path,
    repository: str,
    *,
    private: bool | None = None,
    token: HubToken = None,
    commit_message: str | None = None,
    api: Any = None,
) -> None:
    """Creates the repository if needed, and uploads the checkpoint, its card and its tokenizers in one commit.

    Args:
      folder: folder of the checkpoint.
      repository: Hub id.
      private: whether a new repository is private; None is the owner's default.
      token: passed to huggingface_hub.
      commit_message: message of the commit.
      api: `huggingface_hub`, or an `HfApi`.

    Raises:
      OSError: creating or uploading failed; the folder is unchanged.
    """
    import huggingface_hub

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
    except Exception as error:  # the exception types differ between releases of huggingface_hub
        raise OSError(
            f"{folder} contains the checkpoint, but the upload to {repository} failed ({type(error).__name__}: "
            f"{truncate(' '.join(str(error).split()), 400)}). With a network connection, and token= or `hf auth "
            f"login`, save again, or upload the folder: hf upload {repository} {folder}"
        ) from error
