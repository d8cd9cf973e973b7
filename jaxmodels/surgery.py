"""Changes to trained models: resizing the vocabulary and pruning heads.

Both return a new model and new parameters. They use the logical axis names, and so work for every model type.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.initialise import init
from jaxmodels.messages import brief, reject_unknown_keywords
from jaxmodels.parameters import check_key, check_tree, flatten, logical_axes, unflatten

_ModuleT = TypeVar("_ModuleT", bound=nn.Module)


@reject_unknown_keywords(
    {
        "new_num_tokens": "it is called size=",
        "mean_resizing": "new embeddings are initialised as in `init`; leave it out",
        "seed": "pass key=jax.random.key(seed)",
        "rng": "it is called key=",
    }
)
def resize_token_embeddings(
    model: _ModuleT,
    params: Mapping[str, Any],
    size: int | None = None,
    *,
    pad_to_multiple_of: int | None = None,
    key: jax.Array,
) -> tuple[_ModuleT, dict[str, Any]]:
    """Resizes every axis named `vocab` (embeddings, head, bias of the head); new entries are initialised.

    Reference: transformers/modeling_utils.py, `resize_token_embeddings` (docs/parity.md, C8).

    Args:
      model: the model.
      params: its parameters.
      size: the new vocabulary size; None keeps it, for use with `pad_to_multiple_of`.
      pad_to_multiple_of: round the size up to a multiple, so that the vocabulary can be sharded.
      key: PRNG key for the new entries.

    Returns:
      The model with the new size, and its parameters.

    Raises:
      ValueError: a size below 1, or a model with several vocabularies (RAG), whose parts must be resized separately.
      TypeError: an argument of the wrong type.

    Examples:
      >>> model, params = jm.load("openai-community/gpt2")
      >>> model, params = jm.resize_token_embeddings(model, params, pad_to_multiple_of=128, key=jax.random.key(0))
      >>> model.config.vocab_size % 128
      0
    """
    _check_model("resize_token_embeddings", model, params)
    check_key("key", key)
    for name, number in (("size", size), ("pad_to_multiple_of", pad_to_multiple_of)):
        if number is not None and not _is_int(number):
            raise TypeError(f"{name} must be a number of tokens or None, got {brief(number)}")
    size = model.config.vocab_size if size is None else int(size)
    if size < 1 or (pad_to_multiple_of is not None and pad_to_multiple_of < 1):
        raise ValueError(f"sizes must be positive, got size={size}, pad_to_multiple_of={pad_to_multiple_of}")
    multiple = pad_to_multiple_of or 1
    size = -(-size // multiple) * multiple
    model = model.clone(config=model.config.replace(vocab_size=size))
    old, new, axes = flatten(params), flatten(init(model, key)), flatten(logical_axes(model))
    sizes = {new[path].shape[names.index("vocab")] for path, names in axes.items() if "vocab" in names}
    if sizes != {size}:
        raise ValueError(
            f"{type(model).__name__} has vocabularies of {sorted(sizes)} tokens, from the configs of its parts; "
            "resize each part separately"
        )

    def resize(path: str) -> jax.Array:
        if "vocab" not in axes[path]:
            return old[path]
        axis = axes[path].index("vocab")
        kept = min(size, old[path].shape[axis])
        index = (slice(None),) * axis + (slice(kept),)
        return new[path].astype(old[path].dtype).at[index].set(old[path][index])

    return model, unflatten({path: resize(path) for path in old})


@reject_unknown_keywords({"heads_to_prune": "it is called heads="})
def prune_heads(
    model: _ModuleT, params: Mapping[str, Any], heads: Mapping[int, Iterable[int]]
) -> tuple[_ModuleT, dict[str, Any]]:
    """Prunes self-attention heads (docs/parity.md, C7).

    Layers are stacked, so pruned heads remain in the parameters as zeros, and the forward pass masks them. The config
    records them in `pruned_heads`, and saved files have the reference's smaller tensors.

    Args:
      model: the model.
      params: its parameters.
      heads: layer -> heads to prune.

    Returns:
      The model with the pruned heads, and its parameters.

    Raises:
      TypeError: an argument of the wrong type.
      ValueError: a head that does not exist, or all heads of a layer.

    Examples:
      >>> model, params = jm.load("openai-community/gpt2")
      >>> model, params = jm.prune_heads(model, params, {0: [1, 3]})  # heads 1 and 3 of the first layer
      >>> model.config.pruned_heads[0]
      (1, 3)
    """
    _check_model("prune_heads", model, params)
    if not isinstance(heads, Mapping):
        raise TypeError(f"heads must be a mapping {{layer: heads}}, got {brief(heads)}")
    for layer, pruned in heads.items():
        if isinstance(pruned, Mapping) or not isinstance(pruned, Iterable) or not all(map(_is_int, (layer, *pruned))):
            raise TypeError(f"heads must be {{layer: [head, ...]}} with ints, got {brief({layer: pruned})}")
    config = model.config
    merged = {i: {*config.pruned_heads.get(i, ()), *heads.get(i, ())} for i in {*config.pruned_heads, *heads}}
    model = model.clone(config=config.replace(pruned_heads={i: tuple(sorted(each)) for i, each in merged.items()}))
    axes = flatten(logical_axes(model))

    def zero_pruned(path: str, array: jax.Array) -> jax.Array:
        names = axes[path]
        if names[:1] != ("layers",) or "heads" not in names or not re.search(r"(^|/)attention/", path):
            return array
        for layer, pruned in model.config.pruned_heads.items():
            index = (layer,) + (slice(None),) * (names.index("heads") - 1) + (jnp.array(pruned),)
            array = array.at[index].set(0)
        return array

    return model, unflatten({path: zero_pruned(path, array) for path, array in flatten(params).items()})


def _check_model(function: str, model: nn.Module, params: Mapping[str, Any]) -> None:
    if not isinstance(model, nn.Module) or not hasattr(model, "config"):
        raise TypeError(f"{function} takes a model of jaxmodels, got {brief(model)}")
    check_tree("params", params)
    expected, found = flatten(logical_axes(model)).keys(), flatten(params).keys()
    if expected != found:
        raise ValueError(
            f"params must be the parameters of this {type(model).__name__}; these paths differ: "
            f"{brief(sorted(map(str, expected ^ found)))}"
        )


def _is_int(number: object) -> bool:
    return isinstance(number, int | np.integer) and not isinstance(number, bool)
