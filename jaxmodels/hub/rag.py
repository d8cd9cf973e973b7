"""A RAG from the checkpoints of its two parts (docs/parity.md, A3)."""

from pathlib import Path
from typing import Any

from jaxmodels.architectures import MODELS
from jaxmodels.architectures.base import Model
from jaxmodels.architectures.rag import RagConfig, RagModel, RagPreTrainedModel, RagSequenceForGeneration
from jaxmodels.hub.load import load

_COMMON = ("dtype", "param_dtype", "mesh", "rules", "attention", "remat", "unroll")
_PREFIXES = {"question_encoder": "DPRQuestionEncoder", "generator": "AutoModelForSeq2SeqLM"}


def load_rag(
    question_encoder: str | Path,
    generator: str | Path,
    *,
    cls: type[Model] | str = RagSequenceForGeneration,
    **options,
) -> tuple[Model, dict]:
    """A RAG model and its parameters from a question encoder's folder or Hub id and a generator's (BART or T5).

    Reference: transformers/models/rag/modeling_rag.py, `from_pretrained_question_encoder_generator`.

    Args:
      cls: one of RAG's classes.
      options: those of `load` that concern both parts (dtype, mesh, ...); with the prefix `question_encoder_` or
        `generator_` those of one part (generator_revision, generator_max_position_embeddings, ...); all else are keys
        of the `RagConfig` (n_docs, ...).

    Raises:
      TypeError: a class that is not RAG's; and what `load` raises.
    """
    chosen = MODELS.get(cls) if isinstance(cls, str) else cls
    if not (isinstance(chosen, type) and issubclass(chosen, RagPreTrainedModel)):
        raise TypeError(f"cls is RagModel, RagSequenceForGeneration or RagTokenForGeneration, got {cls!r}")
    common = {name: options.pop(name) for name in _COMMON if name in options}
    parts: dict[str, Any] = {}
    configs, model = {}, None
    for name, kind in _PREFIXES.items():
        source = question_encoder if name == "question_encoder" else generator
        prefix = f"{name}_"
        own = {key.removeprefix(prefix): options.pop(key) for key in list(options) if key.startswith(prefix)}
        model, parts[name] = load(source, **{"cls": kind, **common, **own})
        configs[name] = model.config
    config = RagConfig(**configs, **options)
    run = {name: getattr(model, name) for name in ("dtype", "param_dtype", "attention", "remat", "unroll")}
    return chosen(config, **run), parts if chosen is RagModel else {"rag": parts}
