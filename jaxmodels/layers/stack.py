"""A transformer layer, and the stack of layers: the one loop over layers in this repository."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta

from jaxmodels.arrays import Hidden
from jaxmodels.layers.cache import Cache, LayerCache
from jaxmodels.layers.inputs import LayerInputs, PerLayer
from jaxmodels.layers.linear import dropout

# The name of a stack's parameters: one tree of [L, ...] arrays, or a tuple of L trees in their place.
PARAMS = "layers"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LayerOutput:
    """What a layer returns beside its hidden states; None where it was not requested.

    Attributes:
      attentions, cross_attentions: the probabilities as the attention module returns them: [B,H,T,S], or a tuple of
        arrays (LED).
      cache: the updated entry.
    """

    attentions: Any = None
    cross_attentions: Any = None
    cache: LayerCache | None = None


class Layer(nn.Module):
    """One transformer layer: attention, optional cross attention, feed-forward, each with a norm and a residual.

    Attributes:
      attention, cross_attention, feed_forward, norm: called with `name=`, each makes the module of that name.
        cross_attention None: the architecture has none.
      pre_norm: the norm comes before each part (GPT-2, T5, RoBERTa-PreLayerNorm) or after its residual (BERT, BART).
      dropout: rate on what each part adds to the residual stream.
      clamp: clamp float16 states that overflow, as the encoder-decoders of the reference do.
    """

    attention: Callable[..., nn.Module]
    feed_forward: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    cross_attention: Callable[..., nn.Module] | None = None
    pre_norm: bool = True
    dropout: float = 0.0
    clamp: bool = False

    @nn.compact
    def __call__(
        self, x: Hidden, inputs: LayerInputs, cache: LayerCache | None = None
    ) -> tuple[jax.Array, LayerOutput]:
        """[B,T,D] -> [B,T,D] and what was requested; cross attention is skipped where the inputs have none."""
        past, cross = (None, None) if cache is None else (cache.past, cache.cross)
        norm = self.norm(name="attention_norm")
        h = norm(x) if self.pre_norm else x
        y, weights, past = self.attention(name="attention")(h, inputs.attention, past)
        x = self._add(x, y, norm)
        cross_weights = None
        if self.cross_attention is not None and inputs.cross_attention is not None:
            norm = self.norm(name="cross_attention_norm")
            h = norm(x) if self.pre_norm else x
            attention = self.cross_attention(name="cross_attention")
            y, cross_weights, cross = attention(h, inputs.cross_attention, cross, template=past)
            x = self._add(x, y, norm)
        norm = self.norm(name="feed_forward_norm")
        x = self._add(x, self.feed_forward(name="feed_forward")(norm(x) if self.pre_norm else x), norm)
        return x, LayerOutput(weights, cross_weights, None if past is None else LayerCache(past, cross))

    def _add(self, x: jax.Array, y: jax.Array, norm: nn.Module) -> jax.Array:
        """The residual connection: x + y, and in post-norm layers the norm of it."""
        x = x + dropout(self, y, self.dropout)
        x = x if self.pre_norm else norm(x)
        return _clamp_float16(x) if self.clamp else x


def _clamp_float16(x: Hidden) -> jax.Array:
    """Reference: modeling_led.py, end of `LEDEncoderLayer`; an overflow would turn all that follows into NaN."""
    if x.dtype != jnp.float16:
        return x
    limit = float(jnp.finfo(jnp.float16).max) - 1000
    return jnp.where(jnp.isfinite(x).all(), x, jnp.clip(x, -limit, limit))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StackOutput:
    """Hidden states [B,T,D] after the last layer, and what was requested.

    Attributes:
      hidden_states: [L,B,T,D], the input of each layer.
      attentions, cross_attentions: those of the layers stacked, [L,B,H,T,S]; a tuple of L where their shapes differ.
      cache: the cache after these tokens.
    """

    last: Hidden
    hidden_states: jax.Array | None = None
    attentions: Any = None
    cross_attentions: Any = None
    cache: Cache | None = None


class Stack(nn.Module):
    """L layers over parameters with a leading L axis.

    Without a cache the layers are scanned: the program and its compile time do not grow with L. With a cache they are
    unrolled over the same parameters, because a scanned cache is copied at every step (benchmarks/README.md, "Cache
    layout"). One function serves both loops, so they cannot drift apart; that is why this is `lax.scan` over a pure
    `layer.apply` and not a lifted `nn.scan`, which could not be unrolled over layers sliced outside a decode loop.

    Attributes:
      layer: makes one layer, detached from this module.
      num_layers: L.
      remat: recompute each layer in the backward pass instead of saving its activations.
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
        x: Hidden,
        inputs: LayerInputs | Sequence[LayerInputs],
        cache: Cache | None = None,
        output_hidden_states: bool = False,
    ) -> StackOutput:
        """Runs all layers.

        Args:
          x: [B,T,D].
          inputs: for all layers; or one for each, where they differ in something static such as a window. Layers that
            get the same object are traced once, and scanned together: [a] * 6 + [b] * 6 makes two loops, [a, b] * 6 one
            whose body is two layers. `PerLayer` values have the L axis of the whole stack either way.
          cache: with room reserved for these tokens.
          output_hidden_states: return the input of every layer.
        """
        layer = self.layer()
        each = (inputs,) * self.num_layers if isinstance(inputs, LayerInputs) else tuple(inputs)
        if self.is_initializing():
            self._init(layer, x, each[0])
        if cache is not None:
            # Nothing can be raised under jit, and the write would land on the last slots: make it visible instead.
            x = jnp.where(cache.overflow(x.shape[1]), jnp.nan, x)

        def make_body(inputs: LayerInputs):
            leaves, treedef = jax.tree.flatten(inputs, is_leaf=_is_per_layer)
            stacked = [leaf.values if _is_per_layer(leaf) else None for leaf in leaves]

            def body(x, params, slices, key, entry):
                values = [leaf if at is None else at for leaf, at in zip(leaves, slices, strict=True)]
                rngs = {} if key is None else {"dropout": key}
                x = nn.with_logical_constraint(x, ("batch", "length", None))
                y, out = layer.apply({"params": params}, x, treedef.unflatten(values), entry, rngs=rngs)
                if self.layerdrop and key is not None:
                    y = jnp.where(jax.random.bernoulli(jax.random.fold_in(key, 1), self.layerdrop), x, y)
                return y, (out, x if output_hidden_states else None)

            return (jax.checkpoint(body, prevent_cse=self.unroll) if self.remat else body), stacked

        kinds = [id(value) for value in each]
        bodies = {kind: make_body(value) for kind, value in dict(zip(kinds, each, strict=True)).items()}
        params = meta.unbox(self.get_variable("params", PARAMS))
        keys = jax.random.split(self.make_rng("dropout"), self.num_layers) if self.has_rng("dropout") else None
        if cache is None and not self.unroll and not isinstance(params, tuple):
            return self._scan(x, params, keys, kinds, bodies)

        if isinstance(x, jax.core.Tracer):
            # One trace for all layers of a kind; XLA inlines the calls.
            bodies = {kind: (jax.jit(body), stacked) for kind, (body, stacked) in bodies.items()}
        params = params if isinstance(params, tuple) else unstack(params, self.num_layers)
        entries = (None,) * self.num_layers if cache is None else cache.layers
        outs = []
        for i, kind in enumerate(kinds):
            body, stacked = bodies[kind]
            x, out = body(x, params[i], *jax.tree.map(lambda a: a[i], (stacked, keys)), entries[i])  # noqa: B023
            outs.append(out)
        if cache is not None:
            cache = cache.advance(tuple(out.cache for out, _ in outs), x.shape[1])
        return _stacked_output(x, outs, cache)

    def _init(self, layer: Layer, x, inputs: LayerInputs) -> None:
        first = jax.tree.map(lambda v: v.values[0] if _is_per_layer(v) else v, inputs, is_leaf=_is_per_layer)

        def init(key):
            each = jax.vmap(lambda k: layer.init({"params": k}, x, first)["params"])
            return meta.add_axis(each(jax.random.split(key, self.num_layers)), 0, {nn.PARTITION_NAME: "layers"})

        self.param(PARAMS, init)

    def _scan(self, x, params, keys, kinds, bodies) -> StackOutput:
        """One scan for each segment of layers that repeats."""
        outs = []
        for start, period, repeats in _segments(kinds):
            group = [bodies[kind] for kind in kinds[start : start + period]]
            arrays = (params, keys, [stacked for _, stacked in group])
            if (start, period, repeats) != (0, 1, self.num_layers):
                stop, shape = start + period * repeats, (repeats, period)[: 1 + (period > 1)]
                arrays = jax.tree.map(lambda a: a[start:stop].reshape(*shape, *a.shape[1:]), arrays)  # noqa: B023

            def step(x, arrays):
                results = []
                for j, (body, _) in enumerate(group):  # noqa: B023
                    params, keys, slices = arrays if period == 1 else jax.tree.map(lambda a: a[j], arrays)  # noqa: B023
                    x, out = body(x, params, slices[j], keys, None)
                    results.append(out)
                return x, results

            x, results = jax.lax.scan(step, x, arrays)
            if period == 1 and repeats == self.num_layers:
                out, hidden = results[0]
                return StackOutput(x, hidden, out.attentions, out.cross_attentions)
            outs += [jax.tree.map(lambda a: a[i], out) for i in range(repeats) for out in results]  # noqa: B023
        return _stacked_output(x, outs, None)


def _is_per_layer(value: Any) -> bool:
    return isinstance(value, PerLayer)


def _segments(kinds: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Cuts a sequence into (start, period, repeats): from each start on, the unit whose repetitions cover most."""
    start = 0
    while start < len(kinds):
        period, repeats = 1, 1
        for candidate in range(1, (len(kinds) - start) // 2 + 1):
            unit, times = kinds[start : start + candidate], 1
            while kinds[start + times * candidate :][:candidate] == unit:
                times += 1
            if times > 1 and candidate * times > period * repeats:
                period, repeats = candidate, times
        yield start, period, repeats
        start += period * repeats


def _stacked_output(x, outs: list[tuple[LayerOutput, jax.Array | None]], cache: Cache | None) -> StackOutput:
    def stack(*arrays):
        return jnp.stack(arrays) if len({array.shape for array in arrays}) == 1 else arrays

    captured = [(hidden, out.attentions, out.cross_attentions) for out, hidden in outs]
    hidden, attentions, cross_attentions = jax.tree.map(stack, *captured)  # None has no leaves and stays None
    return StackOutput(x, hidden, attentions, cross_attentions, cache)


def unstack(tree, length: int) -> tuple:
    """A tree of [L, ...] arrays as L trees."""
    return tuple(jax.tree.map(lambda a: a[i], tree) for i in range(length))  # noqa: B023


def unstack_layers(params: dict) -> dict:
    """The same parameters with every stack as a tuple of layers, for a decode loop.

    Call it once outside the loop: slicing the stack inside it would copy every layer at every token.
    """
    if not isinstance(params, dict):
        return params
    return {
        name: unstack(value, jax.tree.leaves(value)[0].shape[0]) if _is_stack(name, value) else unstack_layers(value)
        for name, value in params.items()
    }


def unstacked_views(params: dict) -> dict | None:
    """`unstack_layers` of parameters on one CPU, where an array may be a view of another one; None elsewhere.

    In a program every slice is a copy, and often two: 0.2 s of every call for GPT-2 small, for the page faults of that
    much fresh memory. Donated parameters of which there are views are copied by the runtime.
    """
    leaves = jax.tree.leaves(params)
    if not all(isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        return None
    devices = {device for leaf in leaves for device in leaf.devices()}
    if [device.platform for device in devices] != ["cpu"]:
        return None
    return jax.device_put(unstack_layers(jax.tree.map(np.asarray, params)), devices.pop())


def _is_stack(name: str, value: Any) -> bool:
    """A family may call its `Stack` "layers" too: then that name is there twice, one inside the other."""
    return name == PARAMS and not (isinstance(value, dict) and PARAMS in value)
