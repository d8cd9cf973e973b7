"""Changes of a model's size after the fact: another vocabulary, fewer heads. Both return a new model and tree.

They work by the logical names of the axes, so they hold for every family.
"""

import re
from collections.abc import Iterable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.initialise import init
from jaxmodels.messages import brief, reject_unknown_keywords
from jaxmodels.parameters import check_key, check_tree, flatten, logical_axes, unflatten


@reject_unknown_keywords(
    {
        "new_num_tokens": "it is called size=",
        "mean_resizing": "new rows are drawn as at initialisation; leave it out",
        "seed": "key=jax.random.key(seed)",
        "rng": "it is called key=",
    }
)
def resize_token_embeddings(
    model: nn.Module, params: dict, size: int | None = None, *, pad_to_multiple_of: int | None = None, key: jax.Array
) -> tuple[nn.Module, dict]:
    """Grows or shrinks every axis named `vocab` (embeddings, head, head bias); new rows are freshly initialised.

    Args:
      size: the new vocabulary size; None keeps it (to pad it only).
      pad_to_multiple_of: round the size up to a multiple, so that the vocabulary can be sharded.
      key: for the new rows.

    Raises:
      ValueError: a size below one, or a model of several vocabularies (RAG), whose parts are resized one by one.
      TypeError: no model, tree, number or key.

    Reference: transformers/modeling_utils.py, `resize_token_embeddings` (docs/parity.md, C8).
    """
    _check_model("resize_token_embeddings", model, params)
    check_key("key", key)
    for name, number in (("size", size), ("pad_to_multiple_of", pad_to_multiple_of)):
        if number is not None and (isinstance(number, bool) or not isinstance(number, int | np.integer)):
            raise TypeError(f"{name} is a number of tokens, or None, got {brief(number)}")
    size = model.config.vocab_size if size is None else int(size)
    if size < 1 or (pad_to_multiple_of is not None and pad_to_multiple_of < 1):
        raise ValueError(f"sizes are positive, got size={size}, pad_to_multiple_of={pad_to_multiple_of}")
    multiple = pad_to_multiple_of or 1
    size = -(-size // multiple) * multiple
    model = model.clone(config=model.config.replace(vocab_size=size))
    old, fresh, axes = flatten(params), flatten(init(model, key)), flatten(logical_axes(model))
    sizes = {fresh[path].shape[names.index("vocab")] for path, names in axes.items() if "vocab" in names}
    if sizes != {size}:
        raise ValueError(
            f"{type(model).__name__} takes its vocabularies, of {sorted(sizes)} tokens, from the configs of its parts; "
            "resize each part on its own"
        )

    def resized(path):
        if "vocab" not in axes[path]:
            return old[path]
        axis = axes[path].index("vocab")
        keep = min(size, old[path].shape[axis])
        index = (slice(None),) * axis + (slice(keep),)
        return fresh[path].astype(old[path].dtype).at[index].set(old[path][index])

    return model, unflatten({path: resized(path) for path in old})


@reject_unknown_keywords({"heads_to_prune": "it is called heads="})
def prune_heads(model: nn.Module, params: dict, heads: Mapping[int, Iterable[int]]) -> tuple[nn.Module, dict]:
    """Removes self-attention heads, by layer (docs/parity.md, C7).

    Layers stay stacked, so the pruned heads keep their place in the tree, as zeros that the forward pass masks; the
    config remembers them (`pruned_heads`), and a saved folder holds the reference's smaller tensors.

    Raises:
      TypeError: no model, tree or mapping {layer: heads}. ValueError: heads that are not there, or all of a layer.
    """
    _check_model("prune_heads", model, params)
    if not isinstance(heads, Mapping):
        raise TypeError(f"heads is a mapping {{layer: heads}}, got {brief(heads)}")
    for layer, gone in heads.items():
        if isinstance(gone, Mapping) or not isinstance(gone, Iterable) or not all(map(_counts, (layer, *gone))):
            raise TypeError(f"heads is {{layer: [head, ...]}} in numbers, got {brief({layer: gone})}")
    config = model.config
    pruned = {i: {*config.pruned_heads.get(i, ()), *heads.get(i, ())} for i in {*config.pruned_heads, *heads}}
    model = model.clone(config=config.replace(pruned_heads={i: tuple(sorted(set_)) for i, set_ in pruned.items()}))
    axes = flatten(logical_axes(model))

    def without(path, array):
        names = axes[path]
        if names[:1] != ("layers",) or "heads" not in names or not re.search(r"(^|/)attention/", path):
            return array
        for layer, gone in model.config.pruned_heads.items():
            index = (layer,) + (slice(None),) * (names.index("heads") - 1) + (jnp.array(gone),)
            array = array.at[index].set(0)
        return array

    return model, unflatten({path: without(path, array) for path, array in flatten(params).items()})


def _check_model(function: str, model: nn.Module, params: dict) -> None:
    if not isinstance(model, nn.Module) or not hasattr(model, "config"):
        raise TypeError(f"{function} takes a model of jaxmodels, got {brief(model)}")
    check_tree("params", params)
    own, given = flatten(logical_axes(model)).keys(), flatten(params).keys()
    if own != given:
        raise ValueError(
            f"params is not the tree of this {type(model).__name__}: {brief(sorted(map(str, own ^ given)))}"
        )


def _counts(number) -> bool:
    return isinstance(number, int | np.integer) and not isinstance(number, bool)
