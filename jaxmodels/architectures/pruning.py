"""Heads that are switched off: by the call (`head_mask`), or for good (`pruned_heads` of the config)."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.config import Config


def head_keywords(config: Config, head_mask) -> dict[str, jax.Array]:
    """Keywords of the layers, [L,H] each, from a head_mask [H] or [L,H] or None (docs/parity.md, C6).

    Pruned heads are masked, so that they stay out of the gradient too; pruning leaves the cross attention whole.
    """
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    if head_mask is None and not config.pruned_heads:
        return {}
    keep = np.ones((layers, heads), np.float32)
    for layer, gone in config.pruned_heads.items():
        keep[layer, list(gone)] = 0.0
    if head_mask is None:
        return {"head_mask": jnp.asarray(keep)}
    head_mask = jnp.asarray(head_mask)
    if head_mask.shape not in ((heads,), (layers, heads)):
        raise ValueError(f"head_mask has shape {(heads,)} or {(layers, heads)}, got {head_mask.shape}")
    return {"head_mask": head_mask * keep, "cross_head_mask": head_mask * np.ones_like(keep)}


def layer_head_mask(keyword: str, mask, layers: int, heads: int, name: str = "head_mask") -> dict[str, jax.Array]:
    """{keyword of a layer: [L,H] mask}, or nothing without one; encoder-decoders take no shorter form.

    Args:
      name: of the mask in the call, for messages.

    Raises:
      ValueError: another shape.
    """
    if mask is None:
        return {}
    mask = jnp.asarray(mask)
    if mask.shape != (layers, heads):
        raise ValueError(f"{name} has shape [layers, heads] = {(layers, heads)}, got {mask.shape}")
    return {keyword: mask}


def without_pruned(config: Config, attentions):
    """The reference's attentions hold only the heads that are left: a tuple, where layers differ in number."""
    if attentions is None or not config.pruned_heads:
        return attentions
    every = range(config.num_attention_heads)
    kept = [[h for h in every if h not in config.pruned_heads.get(i, ())] for i in range(config.num_hidden_layers)]
    return tuple(a[:, np.array(heads)] for a, heads in zip(attentions, kept, strict=True))
