"""From a saved folder to a repository of the Hub."""

import hashlib
import math
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from jaxmodels.architectures.base import Model
from jaxmodels.messages import brief, truncate
from jaxmodels.tensor_files.atomic_save import FILE_SETS

CARD = "README.md"
_MARK = "<!-- written by jaxmodels, sha256 "


def write_card(folder: Path, model: Model, flat: dict[str, Any], repository: str) -> None:
    """Writes README.md, in place of an older card of ours that nobody has edited, or where there is none."""
    path = folder / CARD
    if path.exists() and not _is_ours(path):
        return
    body = _body(model, flat, repository)
    draft = folder / f".{CARD}.draft"
    draft.write_text(f"{body}{_MARK}{_digest(body)} -->\n", encoding="utf-8")
    draft.replace(path)


def _is_ours(path: Path) -> bool:
    body, mark, digest = path.read_text(encoding="utf-8", errors="replace").rpartition(_MARK)
    return bool(mark) and digest == f"{_digest(body)} -->\n"


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()


def _body(model: Model, flat: dict[str, Any], repository: str) -> str:
    """What is not known, such as a licence, is left out."""
    name, family = type(model).__name__, model.config.model_type
    kinds = sorted({np.dtype(leaf.dtype).name for leaf in flat.values()})
    count = sum(math.prod(leaf.shape) for leaf in flat.values())
    return f"""---
library_name: jaxmodels
tags:
- jaxmodels
- jax
- safetensors
- {family}
---

# {repository.rpartition("/")[2]}

| fact | value |
|---|---|
| class | `{name}` |
| family | `{family}` |
| parameters | {count:,} |
| types | {", ".join(kinds)} |

```python
import jaxmodels as jm

model, params = jm.load("{repository}")
```

The files are in the format of `transformers`, which loads them as `{name}`.

What the config says beyond the family's defaults:

```python
{model.config!r}
```

"""


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
        raise ValueError(f"push_to_hub is a repository's name, like 'user/name': {truncate(str(error))}") from None
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
            f"{truncate(' '.join(str(error).split()), 400)}). With a network, and token= or `hf auth login`, save "
            f"again, or upload it: hf upload {repository} {folder}"
        ) from error
