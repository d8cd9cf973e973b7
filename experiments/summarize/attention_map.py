"""Plot the attention map of a document so that it is readable for thousands of tokens."""

from pathlib import Path
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm

import jaxmodels as jm

from .. import plots

POINTS = 256  # number of points along each axis
MIN_PROBABILITY = 1e-5  # smaller probabilities are white


def dense_attention(
    local: np.ndarray, global_: np.ndarray, positions: np.ndarray, tokens: int, points: int
) -> np.ndarray:
    """Downsample the attention probabilities of Longformer to a dense map of at most [points,points], queries by keys.

    A point is the maximum over the tokens of its row and column. If there are as many points as tokens, the result is
    the [tokens,tokens] matrix of probabilities, which the model never materialises.

    Args:
      local: Probabilities [T,G+w+1], of the global keys and then of the window of each query; 0 for global queries.
      global_: Probabilities of the global queries, [G,T].
      positions: Positions of the global tokens, int [G].
      tokens: Number of tokens to show, from the first one.
      points: Maximum number of points along each axis.
    """
    size, num_global = -(-tokens // points), len(positions)
    half = (local.shape[1] - num_global - 1) // 2
    everywhere = np.arange(tokens)
    rows, keys = everywhere[:, None], everywhere[:, None] + np.arange(-half, half + 1)
    rows, inside = np.broadcast_to(rows, keys.shape), (keys >= 0) & (keys < tokens)
    found = np.zeros((-(-tokens // size),) * 2, np.float32)
    np.maximum.at(found, (rows[inside] // size, keys[inside] // size), local[:tokens, num_global:][inside])
    for slot, position in enumerate(positions):
        if position < tokens:
            np.maximum.at(found, (everywhere // size, position // size), local[:tokens, slot])
            np.maximum.at(found, (position // size, everywhere // size), global_[slot, :tokens])
    return found


def attention_map(
    path: Path, model: jm.LEDForConditionalGeneration, params: dict, example: dict[str, np.ndarray]
) -> None:
    """Plot the attention of the last encoder layer, averaged over heads, for the single text of a batch.

    The left panel shows the whole text, downsampled; the right panel shows its beginning, token by token.
    """
    tokens, positions = int(example["attention_mask"].sum()), np.flatnonzero(example["global_attention_mask"][0])
    local, global_ = _probabilities(model, params, example, len(positions))
    window = local.shape[1] - len(positions) - 1
    figure, panels = plt.subplots(1, 2, figsize=(13, 6.4), layout="constrained")
    for axes, shown in zip(panels, (tokens, min(tokens, positions.max() + 2 * window)), strict=True):
        found = dense_attention(local, global_, positions, shown, POINTS if shown == tokens else shown)
        image = axes.imshow(
            np.maximum(found, MIN_PROBABILITY),
            norm=LogNorm(MIN_PROBABILITY, 1),
            cmap="Blues",
            extent=(0, shown, shown, 0),
            interpolation="nearest",
        )
        axes.set_xlabel("key token")
        axes.set_ylabel("query token")
        _mark(axes, positions, shown)
    size = -(-tokens // POINTS)
    panels[0].set_title(f"all {tokens:,} tokens, the maximum of {size} x {size}", loc="left", color=plots.INK)
    panels[1].set_title(f"the first {shown:,}: window {window}, {len(positions)} global", loc="left", color=plots.INK)
    figure.colorbar(image, ax=panels, shrink=0.8, label="probability, mean of the heads of the last encoder layer")
    plots.save(path, figure)


def _probabilities(
    model: jm.LEDForConditionalGeneration, params: dict, example: dict[str, np.ndarray], num_global: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the probabilities (local [T,G+w+1], global [G,T]) of the last layer, averaged over heads."""

    @jax.jit
    def encode(params: dict, inputs: dict[str, Any]) -> tuple[jax.Array, jax.Array]:
        out: Any = model.apply(
            {"params": params},
            **inputs,
            max_global_tokens=num_global,
            output_attentions=True,
            return_dict=True,
            method="encode",
        )
        return out.attentions[-1][0].mean(axis=0), out.global_attentions[-1][0].mean(axis=0)

    local, global_ = encode(params, {name: array for name, array in example.items() if name != "labels"})
    return np.asarray(local), np.asarray(global_).T


def _mark(axes: Axes, positions: np.ndarray, shown: int) -> None:
    """Mark the global tokens on both axes."""
    first, last = positions.min(), positions.max() + 1
    for span in (axes.axvspan, axes.axhspan):
        span(first, last, facecolor="none", edgecolor="#d62728", linewidth=0.8)
    axes.annotate(
        "global tokens: attend to all, attended by all",
        (last, last),
        xytext=(0.3, 0.93),
        textcoords="axes fraction",
        color="#d62728",
        arrowprops={"arrowstyle": "-", "color": "#d62728", "linewidth": 0.8},
    )
    axes.set_xlim(0, shown)
    axes.set_ylim(shown, 0)
