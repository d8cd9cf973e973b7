"""Where training starts: two encoders from nothing, or both from one checkpoint."""

from pathlib import Path

import jax
import jax.numpy as jnp
from ml_collections import FrozenConfigDict

import jaxmodels as jm
from experiments.packages import carried
from experiments.retrieval.biencoder import BiEncoder


def checkpoint(start: str) -> str | Path | None:
    """The folder or Hub id that config.start names, "package:NAME" included; None where it is empty.

    Raises:
      FileNotFoundError: the package is not installed, or carries no model.
    """
    return carried(start, "model.safetensors") or start or None


def begin(config: FrozenConfigDict, tokenizer: jm.BertTokenizer, here: dict) -> tuple[BiEncoder, dict]:
    """The encoders and their parameters before training.

    With config.start both are that checkpoint, of BERT or DPR, and config.model changes facts of it. Otherwise
    config.model has the facts, and each encoder its own random numbers.
    """
    run = {"dtype": jnp.dtype(config.dtype), "remat": config.remat}
    sides = {"context": jm.DPRContextEncoder} | ({} if config.shared else {"question": jm.DPRQuestionEncoder})
    source = checkpoint(config.start)
    if source is None:
        special = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
        facts = jm.DPRConfig(**special, **config.model)
        model = BiEncoder(**{side: cls(facts, **run) for side, cls in sides.items()})
        return model, jm.init(model, jax.random.key(config.seed), **here)
    loaded = {
        side: jm.load(source, cls=cls, param_dtype="float32", **run, **here, **config.model)
        for side, cls in sides.items()
    }
    model = BiEncoder(**{side: encoder for side, (encoder, _) in loaded.items()})
    return model, {side: params for side, (_, params) in loaded.items()}
