"""The compiled training step and the compiled evaluation."""

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxmodels import sharding
from jaxmodels.sharding import Rules
from jaxmodels.training.batches import Batch, Weight, check_rows, split
from jaxmodels.training.state import TrainState, abstract_state

Metrics = dict[str, jax.Array]
# (parameters, batch, key) -> (metrics with the "loss", gradients, number of terms that the loss is the mean over)
Gradient = Callable[[Any, Batch, jax.Array], tuple[Metrics, Any, jax.Array]]


class Step:
    """`step(state, batch, key) -> (state, metrics)`, compiled once per batch shape. Made by `make_step`."""

    def __init__(self, function: Callable, microbatches: int, mesh: Mesh | None, rules: Rules | None):
        self._function, self._microbatches, self._mesh, self._rules = function, microbatches, mesh, rules

    def __call__(self, state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
        """One update; none where the loss or the gradient is not finite, or the batch has no labels.

        Such a step leaves parameters and optimizer as they are and is counted: state.step goes up, "skipped" is 1.

        Args:
          state: given away; use the returned one.
          batch: the model's keywords, arrays [B, ...]; with several processes from `place`.
          key: a `jax.random.key`, the same at every step. Step n draws its dropout from fold_in(key, n), so a
            restored run draws what the undisturbed one would have drawn.

        Returns:
          The new state, and {"loss", "grad_norm", "skipped", ...}: float32 scalars, before the update. The arrays of
            the state keep their dtypes.

        Raises:
          ValueError: the rows do not divide among microbatches and devices.
        """
        check_rows(batch, self._microbatches, self._mesh, self._rules)
        with _on(self._mesh, self._rules):
            return self._function(state, dict(batch), key)

    def trace(self, state, batch, key) -> jax.stages.Traced:
        """The program for arguments of these shapes (`jax.ShapeDtypeStruct`s will do), not yet lowered."""
        with _on(self._mesh, self._rules):
            return self._function.trace(state, dict(batch), key)

    def lower(self, state, batch, key) -> jax.stages.Lowered:
        """The same, not yet compiled."""
        with _on(self._mesh, self._rules):
            return self._function.lower(state, dict(batch), key)


def make_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    *,
    mesh: Mesh | None = None,
    rules: Rules | None = None,
    microbatches: int = 1,
    weight: Weight | None = None,
) -> Step:
    """The training step of a model whose output has a `loss`, the mean over some terms (tokens, examples).

    Args:
      mesh, rules: where the state is (`abstract_state`); rows of the batch are split as the rules say.
      microbatches: the batch is worked off in this many parts, one after the other, to save memory.
      weight: number of terms in the mean loss of a (micro)batch. Microbatches count by it, so that the update is that
        of the whole batch also where the numbers differ (padding, masked language modelling); None: they count alike.

    A microbatch without labels (weight 0; without a weight, no gradient and a loss that is the mean of nothing) adds
    nothing, and the metric "unlabelled" counts it. Where all are so, the loss is 0 and the step is skipped.
    """
    if microbatches < 1:
        raise ValueError(f"microbatches is at least 1, got {microbatches}")

    def loss(params, batch, key):
        value = model.apply({"params": params}, **batch, rngs={"dropout": key}).loss
        terms = jnp.float32(1) if weight is None else weight(batch).astype(jnp.float32)
        return value * terms, terms

    def gradient(params, batch, key):
        """Of a microbatch: (loss, terms, 1 if it has no labels), gradients."""
        (value, terms), grads = jax.value_and_grad(loss, has_aux=True)(params, batch, key)
        none = terms == 0 if weight is not None else jnp.isnan(value) & ~_any_nonzero(grads)
        value, terms, grads = jax.tree.map(lambda x: jnp.where(none, jnp.zeros_like(x), x), (value, terms, grads))
        return (value, terms, none.astype(jnp.float32)), grads

    def accumulate(params, batch, key):
        """The sums over microbatches."""
        if microbatches == 1:
            return gradient(params, batch, key)

        def body(total, part):
            return jax.tree.map(jnp.add, total, gradient(params, *part)), None

        zero = jax.tree.map(jnp.zeros_like, ((jnp.float32(0),) * 3, params))
        return jax.lax.scan(body, zero, (split(batch, microbatches), jax.random.split(key, microbatches)))[0]

    def mean(params, batch, key):
        (total, terms, unlabelled), grads = accumulate(params, batch, key)
        divisor = jnp.where(terms == 0, 1, terms)
        grads = jax.tree.map(lambda g: (g / divisor).astype(g.dtype), grads)
        return {"loss": total / divisor, "unlabelled": unlabelled}, grads, terms

    return compile_step(mean, model, optimizer, mesh=mesh, rules=rules, microbatches=microbatches)


def compile_step(
    gradient: Gradient,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    *,
    mesh: Mesh | None,
    rules: Rules | None,
    microbatches: int,
) -> Step:
    """The step around any function of the gradient; `make_step` says what the other arguments mean.

    Args:
      gradient: for the whole batch.
      model: whose parameters these are.
    """

    def step(state: TrainState, batch, key):
        metrics, grads, terms = gradient(state.params, batch, jax.random.fold_in(key, state.step))
        norm = optax.tree.norm(jax.tree.map(lambda g: g.astype(jnp.float32), grads))
        sound = jnp.isfinite(metrics["loss"]) & jnp.isfinite(norm) & (terms != 0)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        old, new = (state.params, state.opt_state), (optax.apply_updates(state.params, updates), opt_state)
        # A choice element by element, which the compiler writes into the memory that the old state gives away.
        params, opt_state = jax.tree.map(lambda n, o: jnp.where(sound, n.astype(o.dtype), o), new, old)
        metrics = {**metrics, "grad_norm": norm, "skipped": 1.0 - sound.astype(jnp.float32)}
        return TrainState(state.step + 1, params, opt_state), metrics

    if mesh is None:
        return Step(jax.jit(step, donate_argnums=0), microbatches, mesh, rules)
    places = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(model, optimizer, mesh=mesh, rules=rules))
    whole = NamedSharding(mesh, PartitionSpec())
    compiled = jax.jit(
        step,
        in_shardings=(places, sharding.batch_sharding(mesh, rules), whole),
        out_shardings=(places, whole),
        donate_argnums=0,
    )
    return Step(compiled, microbatches, mesh, rules)


class Evaluate:
    """`evaluate(params, batches) -> mean loss` over all terms of all batches. Made by `make_evaluate`."""

    def __init__(self, function: Callable, mesh: Mesh | None, rules: Rules | None):
        self._function, self._mesh, self._rules = function, mesh, rules

    def __call__(self, params: Any, batches: Iterable[Batch]) -> float:
        """Mean loss, without dropout.

        Raises:
          ValueError: no batches, or rows that do not divide among the devices.
        """
        sums = []
        for batch in batches:
            check_rows(batch, 1, self._mesh, self._rules)
            with _on(self._mesh, self._rules):
                sums.append(self._function(params, dict(batch)))
        if not sums:
            raise ValueError("there are no batches to evaluate on")
        # Summed in Python's float64: thousands of batches would lose digits in float32.
        totals, terms = zip(*jax.device_get(sums), strict=True)
        return sum(map(float, totals)) / sum(map(float, terms))


def make_evaluate(
    model: nn.Module, *, mesh: Mesh | None = None, rules: Rules | None = None, weight: Weight | None = None
) -> Evaluate:
    """The evaluation that belongs to `make_step`; the arguments mean the same."""

    def evaluate(params, batch):
        value = model.apply({"params": params}, **batch).loss
        terms = jnp.float32(1) if weight is None else weight(batch).astype(jnp.float32)
        return jnp.where(terms > 0, value, 0.0) * terms, terms

    if mesh is None:
        return Evaluate(jax.jit(evaluate), mesh, rules)
    whole = NamedSharding(mesh, PartitionSpec())
    places = (sharding.shardings(model, mesh, rules), sharding.batch_sharding(mesh, rules))
    return Evaluate(jax.jit(evaluate, in_shardings=places, out_shardings=whole), mesh, rules)


def _any_nonzero(tree: Any) -> jax.Array:
    return jnp.stack([jnp.any(leaf != 0) for leaf in jax.tree.leaves(tree)]).any()


def _on(mesh: Mesh | None, rules: Rules | None) -> contextlib.AbstractContextManager:
    return contextlib.nullcontext() if mesh is None else sharding.use(mesh, rules)
