"""The one way into attention: checks the arguments and picks an implementation."""

import jax.numpy as jnp

from pallas_kernels import blocked, reference
from pallas_kernels.bias import Bias
from pallas_kernels.dropout import Dropout
from pallas_kernels.mask import Mask

IMPLEMENTATIONS = ("auto", "xla", "xla_blocked", "pallas")

# From how many (query, key) pairs on "auto" takes the blocked path. Milliseconds and temporary MB on two (busy) CPU
# cores, causal, 12 heads of 64, float32; with the gradient in brackets:
#     B    T     dense ms     blocked ms      dense MB    blocked MB
#     4   256     56 (283)     52 (182)       18 (42)      15 (36)
#     4   512    288 (504)    230 (345)       60 (156)     47 (120)
#     4  1024    565 (1491)   355 (1139)     216 (600)     53 (212)
#     1  2048    574 (3464)   476 (1480)     384 (780)     32 (115)
#     1  4096   3834         2155           1536           63
# Below, a loop only costs compile time. It also needs more than one block of queries: a decoded token stays dense.
BLOCKED_FROM = 512 * 512


def attention(
    q,
    k,
    v,
    *,
    mask: Mask = Mask(),  # noqa: B008 - frozen, holds no array
    bias: Bias | tuple[Bias, ...] | None = None,
    scale=None,
    dropout: Dropout | None = None,
    implementation: str = "auto",
    return_weights: bool = False,
):
    """Multi-head attention: softmax(scale * q.k + bias over the keys that `mask` shows) v.

    q [B, T, H, K], k [B, S, H, K], v [B, S, H, Kv], any float dtype -> [B, T, H, Kv] in q.dtype. Scores and softmax
    are float32 whatever the dtype; probabilities are cast to v.dtype for the second product. A query that sees no key
    gives zero, with zero gradients. With `return_weights`, (output, weights): [B, H, T, S] in q.dtype, after dropout.

    bias: one, or several in a tuple; they add up.
    scale: None for K**-0.5, a float, or a traced scalar.
    dropout: None, or a `Dropout`; the mask is the same in every implementation.
    implementation: "xla" holds all [B, H, T, S] scores, "xla_blocked" a block of queries at a time, in the gradient
        too. "auto" picks by size. A named implementation never falls back to another.

    Raises ValueError for shapes or options that do not fit, TypeError for dtypes that are not floating, and
    NotImplementedError for "pallas", which has no kernels yet.
    """
    biases = bias if isinstance(bias, tuple) else () if bias is None else (bias,)
    _check(q, k, v, mask, biases, dropout)
    chosen = _choose(implementation, T=q.shape[1], S=k.shape[1], return_weights=return_weights)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    seed, rate = (None, 0.0) if dropout is None or dropout.rate == 0 else (dropout.seed(), dropout.rate)
    arguments = {"mask": mask, "biases": biases, "scale": scale, "seed": seed, "rate": rate}
    if chosen == "xla_blocked":
        return blocked.attend(q, k, v, **arguments)
    out, weights = reference.attend(q, k, v, **arguments)
    return (out, weights.astype(q.dtype)) if return_weights else out


def _choose(implementation, *, T, S, return_weights):
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"implementation must be one of {', '.join(IMPLEMENTATIONS)}; got {implementation!r}")
    if return_weights and implementation not in ("auto", "xla"):
        raise ValueError(
            f"return_weights needs every weight at once, which {implementation!r} never forms; use implementation='xla'"
        )
    if implementation == "pallas":
        raise NotImplementedError("there are no Pallas kernels yet; use implementation='auto', 'xla' or 'xla_blocked'")
    if implementation == "auto":
        long = T > blocked.BLOCK and T * S >= BLOCKED_FROM
        return "xla_blocked" if long and not return_weights else "xla"
    return implementation


def _check(q, k, v, mask, biases, dropout):
    given = [("mask", mask, Mask), ("dropout", dropout, Dropout | None), *(("bias", bias, Bias) for bias in biases)]
    for name, value, kinds in given:
        if not isinstance(value, kinds):
            raise TypeError(f"{name} must be {kinds}; got {type(value)}")
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.ndim != 4:
            raise ValueError(f"{name} must have rank 4, [batch, length, heads, width]; got {list(x.shape)}")
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise TypeError(f"{name} must be floating; got {x.dtype}")
    (B, T, H, K), S = q.shape, k.shape[1]
    if k.shape != (B, S, H, K):
        raise ValueError(
            f"k must be [B, S, H, K] with q's B, H, K = {B}, {H}, {K} (heads cannot be grouped); got {list(k.shape)}"
        )
    if v.shape[:3] != (B, S, H):
        raise ValueError(f"v must be [B, S, H, Kv] with k's B, S, H = {B}, {S}, {H}; got {list(v.shape)}")
    mask.check(B, S)
    for bias in biases:
        bias.check(B, H, T, S, K)
