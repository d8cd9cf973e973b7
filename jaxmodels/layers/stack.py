"""A transformer layer, and the stack of layers: the one loop over layers in this repository."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.core import Scope, meta

from jaxmodels.arrays import Hidden
from jaxmodels.layers.cache import Cache, LayerCache
from jaxmodels.layers.inputs import LayerInputs, PerLayer
from jaxmodels.layers.linear import dropout
from jaxmodels.layers.platform import mesh_axes
from jaxmodels.layers.remat import Remat, rematerialise
from pallas_kernels import tokens_per_device

# The name of a stack's parameters: one tree of [L, ...] arrays, or a tuple of L trees in their place.
PARAMS = "layers"
_AXIS = {nn.PARTITION_NAME: "layers"}


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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Collected:
    """What one layer leaves behind, and then what all of them do: with a leading L axis.

    Attributes:
      variables: the collections that may be changed in this call.
    """

    attentions: Any
    cross_attentions: Any
    hidden_states: jax.Array | None
    variables: dict[str, Any]


class Stack(nn.Module):
    """L layers over variables with a leading L axis.

    Without a cache the layers are scanned: the program and its compile time do not grow with L. With a cache they are
    unrolled over the same parameters, because a scanned cache is copied at every step (benchmarks/README.md, "Cache
    layout"). One function serves both loops, so they cannot drift apart: it binds a layer to a scope at "layers", and
    so Flax's tools see the modules in a layer as they do those under `nn.scan`. (`nn.scan` itself could not be unrolled
    over layers sliced outside a decode loop.) Every collection has the L axis, not only the parameters: a layer reads
    and changes its slice.

    Attributes:
      layer: makes one layer, detached from this module.
      num_layers: L.
      remat: what the backward pass of a layer computes again; see `jaxmodels.layers.remat`.
      unroll: unroll also without a cache.
      layerdrop: rate at which a whole layer is skipped, where dropout is active (Fan et al., arXiv:1909.11556).
    """

    layer: Callable[[], Layer]
    num_layers: int
    remat: Remat = False
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
        each = (inputs,) * self.num_layers if isinstance(inputs, LayerInputs) else tuple(inputs)
        if cache is not None:
            # Nothing can be raised under jit, and the write would land on the last slots: make it visible instead.
            x = jnp.where(cache.overflow(x.shape[1]), jnp.nan, x)
        kinds = [id(value) for value in each]
        by_kind = dict(zip(kinds, each, strict=True))
        bodies = {kind: self._make_body(value, output_hidden_states) for kind, value in by_kind.items()}
        variables = {
            name: meta.remove_axis(collection[PARAMS], 0, _AXIS)
            for name, collection in self.variables.items()
            if PARAMS in collection
        }
        assert self.scope is not None
        keys = {name: jax.random.split(self.make_rng(name), self.num_layers) for name in self.scope.rngs}
        if cache is None and not self.unroll and not isinstance(variables.get("params"), tuple):
            x, collected = self._scan(x, variables, keys, kinds, bodies)
        else:
            x, cache, collected = self._unrolled(x, variables, keys, kinds, bodies, cache)
        for name, changed in collected.variables.items():
            self.put_variable(name, PARAMS, meta.add_axis(changed, 0, _AXIS))
        return StackOutput(x, collected.hidden_states, collected.attentions, collected.cross_attentions, cache)

    @nn.nowrap
    def _make_body(self, inputs: LayerInputs, output_hidden_states: bool) -> tuple[Callable[..., Any], list]:
        """A pure function that runs one layer, and the arrays of which each layer gets its slice."""
        layer, outer = self.layer(), self.scope
        leaves, treedef = jax.tree.flatten(inputs, is_leaf=_is_per_layer)
        stacked = [leaf.values if _is_per_layer(leaf) else None for leaf in leaves]

        def body(x, variables, keys, slices, entry):
            values = [leaf if at is None else at for leaf, at in zip(leaves, slices, strict=True)]
            x = self._constrain(x, cached=entry is not None)
            scope = Scope(variables, keys, PARAMS, outer.mutable, path=(*outer.path, PARAMS), flags=outer.flags)
            with scope.temporary():
                y, out = layer.copy(parent=scope)(x, treedef.unflatten(values), entry)
            if self.layerdrop and "dropout" in keys:
                rate = jnp.float32(self.layerdrop)
                y = jnp.where(jax.random.bernoulli(jax.random.fold_in(keys["dropout"], 1), rate), x, y)
            hidden = x if output_hidden_states else None
            collected = _Collected(out.attentions, out.cross_attentions, hidden, scope.mutable_variables())
            return y, out.cache, collected

        return rematerialise(body, self.remat, prevent_cse=self.unroll), stacked

    @nn.nowrap
    def _constrain(self, x: jax.Array, cached: bool) -> jax.Array:
        """States [B,T,D] split as the rules say; the few new tokens beside a cache are not split along the length."""
        whole = cached or self.is_initializing()
        if not whole:
            tokens_per_device(x.shape[1], *mesh_axes("length"))
        return nn.with_logical_constraint(x, ("batch", None if whole else "length", None))

    @nn.nowrap
    def _unrolled(self, x, variables, keys, kinds, bodies, cache: Cache | None):
        if isinstance(x, jax.core.Tracer):
            # One trace for all layers of a kind; XLA inlines the calls.
            bodies = {kind: (jax.jit(body), stacked) for kind, (body, stacked) in bodies.items()}
        variables = {
            name: value if isinstance(value, tuple) else unstack(value, self.num_layers)
            for name, value in variables.items()
        }
        entries = (None,) * self.num_layers if cache is None else cache.layers
        written, outs = [], []
        for i, kind in enumerate(kinds):
            body, stacked = bodies[kind]
            of_layer = {name: value[i] for name, value in variables.items()}
            x, entry, out = body(x, of_layer, *jax.tree.map(lambda a: a[i], (keys, stacked)), entries[i])  # noqa: B023
            written.append(entry)
            outs.append(out)
        return x, None if cache is None else cache.advance(tuple(written), x.shape[1]), _stack(outs)

    @nn.nowrap
    def _scan(self, x, variables, keys, kinds, bodies):
        """One scan for each segment of layers that repeats."""
        outs = []
        for start, period, repeats in _segments(kinds):
            group = [bodies[kind] for kind in kinds[start : start + period]]
            arrays = (variables, keys, [stacked for _, stacked in group])
            if (start, period, repeats) != (0, 1, self.num_layers):
                stop, shape = start + period * repeats, (repeats, period)[: 1 + (period > 1)]
                arrays = jax.tree.map(lambda a: a[start:stop].reshape(*shape, *a.shape[1:]), arrays)  # noqa: B023

            def step(x, arrays):
                results = []
                for j, (body, _) in enumerate(group):  # noqa: B023
                    variables, keys, slices = arrays if period == 1 else jax.tree.map(lambda a: a[j], arrays)  # noqa: B023
                    x, _, out = body(x, variables, keys, slices[j], None)
                    results.append(out)
                return x, results

            x, results = jax.lax.scan(step, x, arrays, repeats)
            if period == 1 and repeats == self.num_layers:
                return x, results[0]
            outs += [jax.tree.map(lambda a: a[i], out) for i in range(repeats) for out in results]  # noqa: B023
        return x, _stack(outs)


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


def _stack(outs: list[_Collected]) -> _Collected:
    def stack(*arrays):
        return jnp.stack(arrays) if len({array.shape for array in arrays}) == 1 else arrays

    return jax.tree.map(stack, *outs)  # None has no leaves and stays None


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
