"""A RAG from the checkpoints of its two parts (docs/parity.md, A3)."""

from pathlib import Path
from typing import Any

from jaxmodels.architectures import MODELS
from jaxmodels.architectures.base import Model
from jaxmodels.architectures.rag import RagConfig, RagModel, RagPreTrainedModel, RagSequenceForGeneration
from jaxmodels.hub.load import load
from jaxmodels.hub.options import TRANSLATED, refuse_foreign_options, translated
from jaxmodels.wording import brief

# Choices that both parts share, so that they have no prefix.
_RUN = ("dtype", "param_dtype", "attention", "remat", "unroll", "mesh", "rules")
_SHARED = (*_RUN, "token", "cache_dir", "local_files_only", "force_download", "ignore_mismatched_sizes", "key")
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
      options: those of `load` that concern both parts (dtype, mesh, token, ...); with the prefix `question_encoder_` or
        `generator_` those of one part (generator_revision, generator_max_position_embeddings, ...); all else are keys
        of the `RagConfig` (n_docs, ...).

    Raises:
      TypeError: a class that is not RAG's, a type or another choice of the run for one part alone; what `load` raises.
    """
    chosen = MODELS.get(cls) if isinstance(cls, str) else cls
    if not (isinstance(chosen, type) and issubclass(chosen, RagPreTrainedModel)):
        raise TypeError(f"cls is RagModel, RagSequenceForGeneration or RagTokenForGeneration, got {brief(cls)}")
    refuse_foreign_options(options, (*_SHARED, "cls"), "load_rag has no option")
    given = {name: options.pop(name, None) for name in ("dtype", "param_dtype", "attention", "remat")}
    common = translated(options, given) | {name: options.pop(name) for name in _SHARED if name in options}
    parts: dict[str, Any] = {}
    models: dict[str, Model] = {}
    for name, kind in _PREFIXES.items():
        source = question_encoder if name == "question_encoder" else generator
        prefix = f"{name}_"
        own = {key.removeprefix(prefix): options.pop(key) for key in list(options) if key.startswith(prefix)}
        for option in own:
            if option in (*_RUN, *TRANSLATED, "cls"):
                raise TypeError(f"load_rag has no option {prefix + option!r}: it is of the whole model, {option}=")
        models[name], parts[name] = load(source, cls=kind, **{**common, **own})
    runs = [{name: getattr(model, name) for name in _RUN[:5]} for model in models.values()]
    if runs[0] != runs[1]:
        raise ValueError(
            f"the files of the two parts hold {runs[0]['dtype']} and {runs[1]['dtype']}; give dtype= a name"
        )
    config = RagConfig(**{name: model.config for name, model in models.items()}, **options)
    return chosen(config, **runs[0]), parts if chosen is RagModel else {"rag": parts}
