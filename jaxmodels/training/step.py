"""The compiled training step and the compiled evaluation."""

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.training.dynamic_scale import DynamicScale
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxmodels import sharding
from jaxmodels.sharding import Rules
from jaxmodels.training.batches import Batch, Weight, check_batch_size, split
from jaxmodels.training.state import Trainable, TrainState, abstract_state, combine, partition

# Batches of an evaluation that wait on the devices: their inputs take memory until they are computed.
QUEUED = 4

Metrics = dict[str, jax.Array]
# (params, batch, key) -> (loss, further results)
Loss = Callable[[Any, Batch, jax.Array], tuple[jax.Array, Any]]
# loss -> ((params, batch, key) -> ((loss, further results), gradients)), as `jax.value_and_grad` with `has_aux`
ValueAndGrad = Callable[[Loss], Callable[[Any, Batch, jax.Array], tuple[tuple[jax.Array, Any], Any]]]
# (trained parameters, batch, key, value_and_grad) -> (metrics with the "loss", gradients, number of terms in the mean
# loss)
Gradient = Callable[[Any, Batch, jax.Array, ValueAndGrad], tuple[Metrics, Any, jax.Array]]


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
    trainable: Trainable | None = None,
) -> Step:
    """Returns the training step of a model whose output has a `loss`, the mean over some terms (tokens, examples).

    A microbatch without labels (weight 0; or, without a weight, a NaN loss with zero gradient) contributes nothing and
    is counted in the metric "unlabelled". If all are without labels, the loss is 0 and the step is skipped.

    If the state has a `loss_scale` (`init_state`), the loss is multiplied by it before the backward pass, and the
    gradients are divided by it in float32. A step that is not finite lowers the scale; many finite ones in a row raise
    it. It is the metric "loss_scale".

    Args:
      model: the model.
      optimizer: Optax optimizer.
      mesh: mesh of the state (`abstract_state`); None for a single device.
      rules: sharding rules of state and batch; required with a mesh.
      microbatches: number of parts of the batch whose gradients are accumulated sequentially, to save memory.
      weight: returns the number of terms in the mean loss of a (micro)batch. Microbatches are weighted by it, so that
        the update is that of the whole batch even if the numbers differ (padding, masked language modelling). None
        weights them equally.
      trainable: as for `init_state`; gradients of the other parameters are not computed.

    Raises:
      ValueError: microbatches < 1.

    Examples:
      >>> model, params = jm.load("openai-community/gpt2")
      >>> optimizer = optax.adamw(1e-4, mask=training.weight_decay_mask)
      >>> state = training.init_state(optimizer, params)
      >>> step = training.make_step(model, optimizer)
      >>> ids = np.array([[5, 6, 7], [8, 9, 10]])
      >>> state, metrics = step(state, {"input_ids": ids, "labels": ids}, jax.random.key(0))
      >>> int(state.step), sorted(metrics)
      (1, ['grad_norm', 'loss', 'skipped', 'unlabelled'])
    """
    if microbatches < 1:
        raise ValueError(f"microbatches must be at least 1, got {microbatches}")

    def loss(params: Any, batch: Batch, key: jax.Array) -> tuple[jax.Array, None]:
        return _loss(model, params, batch, rngs={"dropout": key}).astype(jnp.float32), None

    def gradient(params: Any, batch: Batch, key: jax.Array, value_and_grad: ValueAndGrad) -> tuple[Any, Any]:
        """Returns ((mean loss, terms, 1 if there are no labels), gradients) of a microbatch."""
        (value, _), grads = value_and_grad(loss)(params, batch, key)
        terms = jnp.float32(1) if weight is None else weight(batch).astype(jnp.float32)
        unlabelled = terms == 0 if weight is not None else jnp.isnan(value) & ~_any_nonzero(grads)
        value, terms, grads = jax.tree.map(lambda x: jnp.where(unlabelled, jnp.zeros_like(x), x), (value, terms, grads))
        return (value, terms, unlabelled.astype(jnp.float32)), grads

    def accumulate(params: Any, batch: Batch, key: jax.Array, value_and_grad: ValueAndGrad) -> tuple[Any, Any]:
        """Returns the mean over microbatches of loss and gradients, and the sum of the rest."""

        def body(total: Any, part: Any) -> tuple[Any, None]:
            microbatch, subkey = part
            (value, terms, unlabelled), grads = gradient(params, microbatch, subkey, value_and_grad)
            grads = jax.tree.map(lambda g: (g * terms).astype(g.dtype), grads)
            return jax.tree.map(jnp.add, total, ((value * terms, terms, unlabelled), grads)), None

        zero = jax.tree.map(jnp.zeros_like, ((jnp.float32(0),) * 3, params))
        parts = split(batch, microbatches), jax.random.split(key, microbatches)
        (value, terms, unlabelled), grads = jax.lax.scan(body, zero, parts)[0]
        divisor = jnp.where(terms == 0, 1, terms)
        return (value / divisor, terms, unlabelled), jax.tree.map(lambda g: (g / divisor).astype(g.dtype), grads)

    def mean(params: Any, batch: Batch, key: jax.Array, value_and_grad: ValueAndGrad) -> tuple[Metrics, Any, jax.Array]:
        whole = gradient if microbatches == 1 else accumulate
        (value, terms, unlabelled), grads = whole(params, batch, key, value_and_grad)
        return {"loss": value, "unlabelled": unlabelled}, grads, terms

    return compile_step(mean, model, optimizer, mesh=mesh, rules=rules, microbatches=microbatches, trainable=trainable)


def compile_step(
    gradient: Gradient,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    *,
    mesh: Mesh | None,
    rules: Rules | None,
    microbatches: int,
    trainable: Trainable | None = None,
) -> Step:
    """Compiles the training step for a gradient function.

    Args:
      gradient: returns metrics, gradients and number of terms of the whole batch.
      model: model of the parameters; determines their shardings.
      optimizer: see `make_step`.
      mesh: see `make_step`.
      rules: see `make_step`.
      microbatches: see `make_step`.
      trainable: see `make_step`.
    """

    def step(state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, Metrics]:
        trained, frozen = partition(state.params, trainable)
        value_and_grad = partial(_value_and_grad, frozen=frozen, scale=state.loss_scale)
        metrics, grads, terms = gradient(trained, batch, jax.random.fold_in(key, state.step), value_and_grad)
        norm = optax.tree.norm(jax.tree.map(lambda g: g.astype(jnp.float32), grads))
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(norm)
        valid = finite & (terms != 0)
        updates, opt_state = optimizer.update(grads, state.opt_state, trained)
        old, new = (trained, state.opt_state), (optax.apply_updates(trained, updates), opt_state)
        # Elementwise select, which the compiler writes into the donated memory of the old state.
        trained, opt_state = jax.tree.map(lambda n, o: jnp.where(valid, n.astype(o.dtype), o), new, old)
        metrics = {**metrics, "grad_norm": norm, "skipped": 1.0 - valid.astype(jnp.float32)}
        scale = state.loss_scale
        if scale is not None:
            metrics["loss_scale"], scale = jnp.asarray(scale.scale), _adjusted(scale, finite)
        return TrainState(state.step + 1, combine(trained, frozen), opt_state, scale), metrics

    if mesh is None:
        return Step(jax.jit(step, donate_argnums=0), microbatches, mesh, rules)
    if rules is None:
        raise ValueError("a mesh requires rules: pass both or neither")
    like = abstract_state(model, optimizer, mesh=mesh, rules=rules, trainable=trainable)
    replicated = NamedSharding(mesh, PartitionSpec())
    shardings = jax.tree.map(lambda leaf: leaf.sharding, like).replace(loss_scale=replicated)
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
        total = terms = 0.0  # in float64: the sum over thousands of batches would lose precision in float32
        queued: deque[tuple[jax.Array, jax.Array]] = deque()
        for batch in batches:
            check_batch_size(batch, 1, self._mesh, self._rules)
            with _use(self._mesh, self._rules):
                queued.append(self._function(params, dict(batch)))
            if len(queued) > QUEUED:
                total, terms = _add((total, terms), queued.popleft())
        if not queued:
            raise ValueError("no batches to evaluate on")
        for sums in queued:
            total, terms = _add((total, terms), sums)
        return total / terms


def _add(totals: tuple[float, float], sums: tuple[jax.Array, jax.Array]) -> tuple[float, float]:
    value, terms = jax.device_get(sums)
    return totals[0] + float(value), totals[1] + float(terms)


def make_evaluate(
    model: nn.Module, *, mesh: Mesh | None = None, rules: Rules | None = None, weight: Weight | None = None
) -> Evaluate:
    """Returns the evaluation for a model; see `make_step` for the arguments.

    Examples:
      >>> model, params = jm.load("openai-community/gpt2")
      >>> evaluate = training.make_evaluate(model)
      >>> ids = np.array([[5, 6, 7], [8, 9, 10]])
      >>> loss = evaluate(params, [{"input_ids": ids, "labels": ids}])
    """

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


def _value_and_grad(loss: Loss, *, frozen: Any, scale: DynamicScale | None) -> Any:
    """Returns ((loss, further results), gradients) as a function of the parameters that are trained."""

    def of_trained(trained: Any, batch: Batch, key: jax.Array) -> tuple[jax.Array, Any]:
        return loss(combine(trained, frozen), batch, key)

    if scale is None:
        return jax.value_and_grad(of_trained, has_aux=True)

    def scaled(trained: Any, batch: Batch, key: jax.Array) -> tuple[tuple[jax.Array, Any], Any]:
        result = scale.value_and_grad(of_trained, has_aux=True)(trained, batch, key)
        return result.aux, jax.tree.map(lambda g, p: g.astype(p.dtype), result.grad, trained)

    return scaled


def _adjusted(scale: DynamicScale, finite: jax.Array) -> DynamicScale:
    """Returns the scale of the next step. Flax's `value_and_grad` would adjust it after every microbatch."""
    grows = finite & (scale.fin_steps >= scale.growth_interval)
    raised = jnp.minimum(scale.scale * scale.growth_factor, jnp.finfo(jnp.float32).max)
    lowered = jnp.maximum(scale.scale * scale.backoff_factor, scale.minimum_scale or 0.0)
    return scale.replace(
        scale=jnp.where(grows, raised, jnp.where(finite, scale.scale, lowered)),
        fin_steps=jnp.where(finite & ~grows, scale.fin_steps + 1, 0),
    )


def _any_nonzero(tree: Any) -> jax.Array:
    return jnp.stack([jnp.any(leaf != 0) for leaf in jax.tree.leaves(tree)]).any()


def _use(mesh: Mesh | None, rules: Rules | None) -> contextlib.AbstractContextManager:
    return contextlib.nullcontext() if mesh is None or rules is None else sharding.use(mesh, rules)
