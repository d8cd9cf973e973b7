"""Initial models of RAG: the encoders of a retrieval run or a checkpoint, or random ones, and the generator."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict, FrozenConfigDict

import jaxmodels as jm
from jaxmodels.architectures.base import Model
from jaxmodels.architectures.rag.model import RagPreTrainedModel
from jaxmodels.tokenization.base import Tokenizer

from ..loop import Sharding
from ..retrieval.biencoder import load_biencoder, package_folder, split_encoders
from . import onnx_t5

CONTEXT, QUESTION = "context_encoder", "question_encoder"  # output folders of a retrieval run


def load_encoders(
    config: FrozenConfigDict, tokenizer: jm.BertTokenizer, sharding: Sharding
) -> tuple[jm.DPRConfig, dict]:
    """Load the config of both encoders, and parameters {"question_encoder": ..., "ctx_encoder": ...}.

    config.start is the output folder of `dpr_retrieval`, or any start value of that experiment.

    Raises:
      ValueError: The two encoders of a run have different configs.
    """
    folder = Path(config.start)
    if (folder / CONTEXT).is_dir():
        options: dict[str, Any] = {"dtype": config.dtype, "param_dtype": "float32", **sharding}
        (context, context_params), (question, question_params) = (
            jm.load(folder / name, **options) for name in (CONTEXT, QUESTION)
        )
        different = [
            name for name in ("hidden_size", "num_hidden_layers", "vocab_size") if not _same(context, question, name)
        ]
        if different:
            raise ValueError(f"RAG has one config for both encoders, but those in {folder} differ in {different[0]}")
        return _dpr_config(question), {"question_encoder": question_params, "ctx_encoder": context_params}
    model, params = load_biencoder(config, tokenizer, sharding)
    found = split_encoders(model, params)
    (_, context_params), (question, question_params) = (found[name] for name in (CONTEXT, QUESTION))
    # A training step donates the memory of the parameters, so the encoders must not share any.
    question_params = jax.tree.map(jnp.copy, question_params)
    return _dpr_config(question), {"question_encoder": question_params, "ctx_encoder": context_params}


def _dpr_config(model: Model) -> jm.DPRConfig:
    assert isinstance(model.config, jm.DPRConfig)
    return model.config


def _same(first: Model, second: Model, name: str) -> bool:
    return getattr(first.config, name) == getattr(second.config, name)


def unpack_generator(config: FrozenConfigDict, folder: Path) -> FrozenConfigDict:
    """If generator.start is "package:NAME", convert the T5 of that package to `folder` and return the changed config.

    Raises:
      FileNotFoundError: The package is not installed, or does not contain a T5 as ONNX graphs.
    """
    graphs, target = package_folder(config.generator.start, "decoder.onnx"), folder / "generator_start"
    if graphs is None:
        return config
    if not target.is_dir():
        onnx_t5.rewrite(graphs, target)
    changed = ConfigDict(config.to_dict())
    changed.generator.start = str(target)
    return FrozenConfigDict(changed)


def load_generator(config: FrozenConfigDict, tokenizer: Tokenizer, sharding: Sharding) -> tuple[Model, dict]:
    """Load the generator from a BART or T5 checkpoint, or initialise a BART; return it with its parameters."""
    options: dict[str, Any] = {"dtype": jnp.dtype(config.dtype), "remat": config.remat}
    generator = config.generator
    if generator.start:
        options["param_dtype"] = "float32"
        return jm.load(generator.start, cls="AutoModelForSeq2SeqLM", **options, **sharding, **generator.model)
    special: dict[str, Any] = {
        f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "pad", "eos")
    }
    bart_config = jm.BartConfig(
        **generator.model,
        **special,
        vocab_size=len(tokenizer),
        decoder_start_token_id=tokenizer.eos_token_id,
        max_position_embeddings=max(config.lengths.context, config.lengths.answer),
    )
    model = jm.BartForConditionalGeneration(bart_config, **options)
    return model, jm.init(model, jax.random.key(config.seed), **sharding)


def make_rag(config: FrozenConfigDict, encoder: jm.DPRConfig, generator: Model) -> RagPreTrainedModel:
    """Create a RAG model of both, with a context encoder that is trained jointly."""
    classes: dict[str, type[RagPreTrainedModel]] = {
        "token": jm.RagTokenForGeneration,
        "sequence": jm.RagSequenceForGeneration,
    }
    if config.marginal not in classes:
        raise ValueError(f"marginal is one of {', '.join(classes)}; got {config.marginal!r}")
    rag_config = jm.RagConfig.from_question_encoder_generator_configs(
        encoder,
        generator.config,
        n_docs=config.n_docs,
        max_combined_length=config.lengths.context,
        retrieval_vector_size=encoder.hidden_size,
    )
    options = {"dtype": jnp.dtype(config.dtype), "remat": config.remat}
    return classes[config.marginal](rag_config, context_encoder_training=True, **options)
