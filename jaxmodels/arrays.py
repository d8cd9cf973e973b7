"""Arrays by shape and dtype, for signatures and fields.

Letters: B batch, T queries, S keys or encoder tokens, D model width, H heads, K head width, V vocabulary, L layers.
Type checkers read each as `jax.Array`; numpy arrays and lists are accepted too wherever a model is called.
"""

from typing import Annotated, TypeAlias

import jax

TokenIds: TypeAlias = Annotated[jax.Array, "int [B,T], or [B,choices,T] where a model takes choices"]
PaddingMask: TypeAlias = Annotated[jax.Array, "[B,T], 1 for real tokens and 0 for padding"]
HeadMask: TypeAlias = Annotated[jax.Array, "float [H] or [L,H]"]
Hidden: TypeAlias = Annotated[jax.Array, "[B,T,D]"]
HiddenByLayer: TypeAlias = Annotated[jax.Array, "[L+1,B,T,D]"]
AttentionByLayer: TypeAlias = Annotated[jax.Array, "[L,B,H,T,S]"]
Heads: TypeAlias = Annotated[jax.Array, "[B,T,H,K]"]
Logits: TypeAlias = Annotated[jax.Array, "float32 [B,T,V]"]
Loss: TypeAlias = Annotated[jax.Array, "float32 scalar"]
Labels: TypeAlias = Annotated[jax.Array, "int [B,T], -100 positions are ignored"]
