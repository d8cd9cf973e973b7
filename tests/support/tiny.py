"""Tiny models with random parameters, for tests that need no reference."""

import jax
import numpy as np

import jaxmodels as jm
from jaxmodels.architectures import MODELS
from jaxmodels.parameters import abstract

TINY = {"vocab_size": 67, "n_positions": 24, "n_embd": 32, "n_layer": 2, "n_head": 4, "pad_token_id": 0}
_BERT = {"vocab_size": 67, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
# Encoder and decoder have different sizes, so that mix-ups fail.
_BART = {"vocab_size": 67, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2}
_BART |= {"encoder_ffn_dim": 40, "encoder_attention_heads": 4, "decoder_ffn_dim": 48, "decoder_attention_heads": 8}
# Small config values by the prefix of a class name.
SIZES = {
    "GPT2": TINY,
    # A window shorter than texts.
    "GPTNeo": {"vocab_size": 67, "max_position_embeddings": 24, "hidden_size": 32, "num_heads": 4, "pad_token_id": 0}
    | {"num_layers": 2, "attention_types": [[["global", "local"], 1]], "window_size": 3},
    # The head width is not hidden_size / num_attention_heads.
    "Llama": {**_BERT, "num_key_value_heads": 2, "head_dim": 6, "max_position_embeddings": 24, "pad_token_id": 0},
    "Bert": {**_BERT, "max_position_embeddings": 24, "type_vocab_size": 3},
    "DPR": {**_BERT, "max_position_embeddings": 24, "type_vocab_size": 3},
    # Positions are counted from pad_token_id + 1 = 2.
    "Roberta": {**_BERT, "max_position_embeddings": 26, "type_vocab_size": 3},
    # The head width is not d_model / num_heads; there are few buckets, so that short texts reach the last ones.
    "T5": {"vocab_size": 67, "d_model": 32, "d_kv": 6, "d_ff": 40, "num_layers": 2, "num_heads": 4}
    | {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 10, "decoder_start_token_id": 0},
    "Bart": {**_BART, "max_position_embeddings": 24},
    "LED": {**_BART, "max_encoder_position_embeddings": 32, "max_decoder_position_embeddings": 24}
    | {"attention_window": 4},
}

# RAG's classes are made of models of other families.
CLASSES = tuple(name for name in MODELS if not name.startswith("Rag"))


def sizes(name: str) -> dict:
    """Return the values of a tiny config for a class name."""
    return next(values for prefix, values in SIZES.items() if name.startswith(prefix))


def tiny(name: str = "GPT2LMHeadModel", *, seed: int = 0, choices: dict | None = None, **config) -> tuple:
    """Return (model, params) with normally distributed parameters: compiling the initialisation would take seconds."""
    cls = getattr(jm, name)
    model = cls(cls.config_class(**{**sizes(name), **config}), **(choices or {}))
    return model, random_params(model, seed)


def random_params(model, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)

    def leaf(shape):
        return jax.numpy.asarray(rng.normal(0.0, 0.15, shape.shape), shape.dtype)

    return jax.tree.map(leaf, abstract(model))
