"""The stack of layers: the one loop over layers in this repository."""

import dataclasses
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import meta

from jaxmodels.layers.cache import Cache
from jaxmodels.layers.layer import Layer, LayerOutput
from jaxmodels.layers.unstack import PARAMS, unstack


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StackOutput:
    """Hidden states [B,T,D] after the last layer, and what was captured on the way.

    Attributes:
      hidden_states: [L,B,T,D], the input of each layer.
      attentions, cross_attentions: [L,B,H,T,S], or what the layers' attentions give instead, stacked.
      cache: the cache after these tokens.
    """

    last: jax.Array
    hidden_states: jax.Array | None = None
    attentions: jax.Array | None = None
    cross_attentions: jax.Array | None = None
    cache: Cache | None = None


class Stack(nn.Module):
    """L layers over parameters with a leading L axis.

    Without a cache the layers are scanned: the program and its compile time do not grow with L. With a cache they are
    unrolled over the same parameters, because a scanned cache is copied at every step (a CPU decode loop measured 1.9x
    slower). One `body` serves both loops, so they cannot drift apart; that is why this is `lax.scan` over a pure
    `layer.apply` and not a lifted `nn.scan`, which could not be unrolled over layers sliced outside a decode loop.

    Attributes:
      layer: makes one layer, detached from this module.
      num_layers: L.
      remat: recompute each layer in the backward pass instead of keeping its activations.
      unroll: unroll also without a cache.
      layerdrop: rate at which a whole layer is skipped, where dropout is active (Fan et al., arXiv:1909.11556).
    """

    layer: Callable[[], Layer]
    num_layers: int
    remat: bool = False
    unroll: bool = False
    layerdrop: float = 0.0

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        *,
        shared: Mapping[str, object],
        per_layer: Mapping[str, jax.Array],
        cache: Cache | None = None,
        output_hidden_states: bool = False,
        part: slice | None = None,
    ) -> StackOutput:
        """Runs all layers, or a part of them.

        Args:
          x: [B,T,D].
          shared: keywords that every layer gets.
          per_layer: keywords whose arrays have a leading L axis, one slice a layer.
          cache: with room already reserved for these tokens.
          output_hidden_states: keep the input of every layer.
          part: the layers to run, for architectures whose layers differ in something static; `per_layer` and `cache`
            are then the part's. None: all.
        """
        layer = self.layer()
        if self.is_initializing():
            self._init(layer, x, shared, per_layer)
        if cache is not None:
            # Nothing can be raised under jit, and the write would land on the last slots: make it visible instead.
            x = jnp.where(cache.overflow(x.shape[1]), jnp.nan, x)
            shared = {**shared, "start": cache.length}

        def body(x, params, inputs, key, entry):
            rngs = {} if key is None else {"dropout": key}
            x = nn.with_logical_constraint(x, ("batch", "length", None))
            y, out = layer.apply({"params": params}, x, **shared, **inputs, cache=entry, rngs=rngs)
            if self.layerdrop and key is not None:
                y = jnp.where(jax.random.bernoulli(jax.random.fold_in(key, 1), self.layerdrop), x, y)
            return y, (out, x if output_hidden_states else None)

        if self.remat:
            body = jax.checkpoint(body, prevent_cse=self.unroll)
        params, count, per_layer = meta.unbox(self.get_variable("params", PARAMS)), self.num_layers, dict(per_layer)
        if part is not None:
            count = len(range(*part.indices(count)))
            params = params[part] if isinstance(params, tuple) else jax.tree.map(lambda a: a[part], params)
        keys = jax.random.split(self.make_rng("dropout"), count) if self.has_rng("dropout") else None
        if cache is None and not self.unroll and not isinstance(params, tuple):
            x, (out, hidden) = jax.lax.scan(lambda x, s: body(x, *s, None), x, (params, per_layer, keys))
            return StackOutput(x, hidden, out.attentions, out.cross_attentions)

        entries = (None,) * count if cache is None else cache.layers
        slices = [params if isinstance(params, tuple) else unstack(params, count)]
        slices += [unstack(arrays, count) for arrays in (per_layer, keys)]
        if isinstance(x, jax.core.Tracer):
            body = jax.jit(body)  # one trace for all layers; XLA inlines the calls
        outs = []
        for *inputs, entry in zip(*slices, entries, strict=True):
            x, out = body(x, *inputs, entry)
            outs.append(out)
        return self._gather(x, outs, cache)

    def _init(self, layer, x, shared, per_layer):
        first = jax.tree.map(lambda a: a[0], dict(per_layer))

        def init(key):
            each = jax.vmap(lambda k: layer.init({"params": k}, x, **shared, **first)["params"])
            return meta.add_axis(each(jax.random.split(key, self.num_layers)), 0, {nn.PARTITION_NAME: "layers"})

        self.param(PARAMS, init)

    def _gather(self, x, outs: list[tuple[LayerOutput, jax.Array | None]], cache: Cache | None) -> StackOutput:
        outs, hidden = zip(*outs, strict=True)

        def stacked(arrays):
            return jax.tree.map(lambda *layers: jnp.stack(layers), *arrays)  # None has no leaves and stays None

        if cache is not None:
            cache = cache.advance(tuple(out.cache for out in outs), x.shape[1])
        return StackOutput(
            x,
            stacked(hidden),
            stacked([out.attentions for out in outs]),
            stacked([out.cross_attentions for out in outs]),
            cache,
        )
