"""A model card: what is known of a checkpoint, for the people who find it on the Hub."""

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np

from jaxmodels.architectures.base import Model

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
