"""The compiled training step and the compiled evaluation."""

import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxmodels import sharding
from jaxmodels.sharding import Rules
from jaxmodels.training.batches import Batch, Weight, check_batch_size, split
from jaxmodels.training.state import TrainState, abstract_state

Metrics = dict[str, jax.Array]
# (params, batch, key) -> (metrics with the "loss", gradients, number of terms in the mean loss)
Gradient = Callable[[Any, Batch, jax.Array], tuple[Metrics, Any, jax.Array]]


class Step:
    """`step(state, batch, key) -> (state, metrics)`, compiled once per batch shape; returned by `make_step`."""

    def __init__(self, function: Any, microbatches: int, mesh: Mesh | None, rules: Rules | None):
        self._function, self._microbatches, self._mesh, self._rules = function, microbatches, mesh, rules

    def __call__(self, state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
        """Updates the state; skips the update if loss or gradient are not finite, or the batch has no labels.

        A skipped step leaves parameters and optimizer state unchanged but counts: state.step increases, and "skipped"
        is 1.

        Args:
          state: donated; use the returned one.
          batch: the model's keyword arguments, arrays [B, ...]; with several processes from `place`.
          key: a `jax.random.key`, the same for every step. Step n draws its dropout from fold_in(key, n), so that a
            restored run draws the same dropout as an uninterrupted one.

        Returns:
          The new state, and {"loss", "grad_norm", "skipped", ...}: float32 scalars, before the update. The arrays of
            the state keep their dtypes.

        Raises:
          ValueError: the batch is not divisible among microbatches and devices.
        """
        check_batch_size(batch, self._microbatches, self._mesh, self._rules)
        with _use(self._mesh, self._rules):
            return self._function(state, dict(batch), key)

    def trace(self, state: TrainState, batch: Mapping[str, Any], key: Any) -> jax.stages.Traced:
        """Traces the program for arguments of these shapes (`jax.ShapeDtypeStruct`s suffice)."""
        with _use(self._mesh, self._rules):
            return self._function.trace(state, dict(batch), key)

    def lower(self, state: TrainState, batch: Mapping[str, Any], key: Any) -> jax.stages.Lowered:
        """Traces and lowers the program; see `trace`."""
        with _use(self._mesh, self._rules):
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
    """Returns the training step of a model whose output has a `loss`, the mean over some terms (tokens, examples).

    A microbatch without labels (weight 0; or, without a weight, a NaN loss with zero gradient) contributes nothing and
    is counted in the metric "unlabelled". If all are without labels, the loss is 0 and the step is skipped.

    Args:
      model: the model.
      optimizer: Optax optimizer.
      mesh: mesh of the state (`abstract_state`); None for a single device.
      rules: sharding rules of state and batch; required with a mesh.
      microbatches: number of parts of the batch whose gradients are accumulated sequentially, to save memory.
      weight: returns the number of terms in the mean loss of a (micro)batch. Microbatches are weighted by it, so that
        the update is that of the whole batch even if the numbers differ (padding, masked language modelling). None
        weights them equally.

    Raises:
      ValueError: microbatches < 1.
    """
    if microbatches < 1:
        raise ValueError(f"microbatches must be at least 1, got {microbatches}")

    def loss(params: Any, batch: Batch, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        value = _loss(model, params, batch, rngs={"dropout": key})
        terms = jnp.float32(1) if weight is None else weight(batch).astype(jnp.float32)
        return value * terms, terms

    def gradient(params: Any, batch: Batch, key: jax.Array) -> tuple[Any, Any]:
        """Returns ((loss, terms, 1 if there are no labels), gradients) of a microbatch."""
        (value, terms), grads = jax.value_and_grad(loss, has_aux=True)(params, batch, key)
        unlabelled = terms == 0 if weight is not None else jnp.isnan(value) & ~_any_nonzero(grads)
        value, terms, grads = jax.tree.map(lambda x: jnp.where(unlabelled, jnp.zeros_like(x), x), (value, terms, grads))
        return (value, terms, unlabelled.astype(jnp.float32)), grads

    def accumulate(params: Any, batch: Batch, key: jax.Array) -> tuple[Any, Any]:
        """Returns the sums over microbatches."""
        if microbatches == 1:
            return gradient(params, batch, key)

        def body(total: Any, part: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, gradient(params, *part)), None

        zero = jax.tree.map(jnp.zeros_like, ((jnp.float32(0),) * 3, params))
        return jax.lax.scan(body, zero, (split(batch, microbatches), jax.random.split(key, microbatches)))[0]

    def mean(params: Any, batch: Batch, key: jax.Array) -> tuple[Metrics, Any, jax.Array]:
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
    """Compiles the training step for a gradient function.

    Args:
      gradient: returns metrics, gradients and number of terms of the whole batch.
      model: model of the parameters; determines their shardings.
      optimizer: see `make_step`.
      mesh: see `make_step`.
      rules: see `make_step`.
      microbatches: see `make_step`.
    """

    def step(state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
        metrics, grads, terms = gradient(state.params, batch, jax.random.fold_in(key, state.step))
        norm = optax.tree.norm(jax.tree.map(lambda g: g.astype(jnp.float32), grads))
        valid = jnp.isfinite(metrics["loss"]) & jnp.isfinite(norm) & (terms != 0)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        old, new = (state.params, state.opt_state), (optax.apply_updates(state.params, updates), opt_state)
        # Elementwise select, which the compiler writes into the donated memory of the old state.
        params, opt_state = jax.tree.map(lambda n, o: jnp.where(valid, n.astype(o.dtype), o), new, old)
        metrics = {**metrics, "grad_norm": norm, "skipped": 1.0 - valid.astype(jnp.float32)}
        return TrainState(state.step + 1, params, opt_state), metrics

    if mesh is None:
        return Step(jax.jit(step, donate_argnums=0), microbatches, mesh, rules)
    if rules is None:
        raise ValueError("a mesh requires rules: pass both or neither")
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(model, optimizer, mesh=mesh, rules=rules))
    replicated = NamedSharding(mesh, PartitionSpec())
    compiled = jax.jit(
        step,
        in_shardings=(shardings, sharding.batch_sharding(mesh, rules), replicated),
        out_shardings=(shardings, replicated),
        donate_argnums=0,
    )
    return Step(compiled, microbatches, mesh, rules)


class Evaluate:
    """`evaluate(params, batches) -> mean loss` over all terms of all batches; returned by `make_evaluate`."""

    def __init__(self, function: Callable[..., Any], mesh: Mesh | None, rules: Rules | None):
        self._function, self._mesh, self._rules = function, mesh, rules

    def __call__(self, params: Any, batches: Iterable[Batch]) -> float:
        """Returns the mean loss, without dropout.

        Raises:
          ValueError: no batches, or a batch that is not divisible among the devices.
        """
        sums = []
        for batch in batches:
            check_batch_size(batch, 1, self._mesh, self._rules)
            with _use(self._mesh, self._rules):
                sums.append(self._function(params, dict(batch)))
        if not sums:
            raise ValueError("no batches to evaluate on")
        # In float64: the sum over thousands of batches would lose precision in float32.
        totals, terms = zip(*jax.device_get(sums), strict=True)
        return sum(map(float, totals)) / sum(map(float, terms))


def make_evaluate(
    model: nn.Module, *, mesh: Mesh | None = None, rules: Rules | None = None, weight: Weight | None = None
) -> Evaluate:
    """Returns the evaluation for a model; see `make_step` for the arguments."""

    def evaluate(params: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
        value = _loss(model, params, batch)
        terms = jnp.float32(1) if weight is None else weight(batch).astype(jnp.float32)
        return jnp.where(terms > 0, value, 0.0) * terms, terms

    if mesh is None:
        return Evaluate(jax.jit(evaluate), mesh, rules)
    if rules is None:
        raise ValueError("a mesh requires rules: pass both or neither")
    replicated = NamedSharding(mesh, PartitionSpec())
    in_shardings = (sharding.shardings(model, mesh, rules), sharding.batch_sharding(mesh, rules))
    return Evaluate(jax.jit(evaluate, in_shardings=in_shardings, out_shardings=replicated), mesh, rules)


def _loss(model: nn.Module, params: Any, batch: Batch, rngs: dict[str, jax.Array] | None = None) -> jax.Array:
    inputs: dict[str, Any] = dict(batch)
    output: Any = model.apply({"params": params}, **inputs, rngs=rngs)
    return output.loss


def _any_nonzero(tree: Any) -> jax.Array:
    return jnp.stack([jnp.any(leaf != 0) for leaf in jax.tree.leaves(tree)]).any()


def _use(mesh: Mesh | None, rules: Rules | None) -> contextlib.AbstractContextManager:
    return contextlib.nullcontext() if mesh is None or rules is None else sharding.use(mesh, rules)
