"""The optimizers of the experiments: AdamW, or Muon for the matrices of the layers with AdamW for other parameters."""

from typing import Any

import jax
import optax
from ml_collections import FrozenConfigDict
from optax.contrib import MuonDimensionNumbers, muon

from jaxmodels.training import weight_decay_mask

# Input and output axes of the kernels of a layer; the other axes (layers, and the 3 of qkv) enumerate matrices.
_MATRICES = {
    "qkv": MuonDimensionNumbers(reduction_axis=1, output_axis=(3, 4)),  # [L, D, 3, H, K]
    "out": MuonDimensionNumbers(reduction_axis=(1, 2), output_axis=3),  # [L, H, K, D]
    "up": MuonDimensionNumbers(reduction_axis=1, output_axis=2),  # [L, D, F]
    "down": MuonDimensionNumbers(reduction_axis=1, output_axis=2),  # [L, F, D]
}


def make_optimizer(config: FrozenConfigDict) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Create the optimizer and its learning rate schedule: linear warmup, then decay as optimizer.schedule says.

    "cosine" (the default) and "linear" end at optimizer.final; "constant" does not decay.

    "adamw" is by Loshchilov and Hutter (2019). "muon" is by Jordan (2024, "Muon: An optimizer for hidden layers"): it
    orthogonalises the updates of the matrices of the layers, at `matrix_rate` times the learning rate of the other
    parameters.

    Raises:
      ValueError: Unknown optimizer.name or optimizer.schedule.
    """
    c = config.optimizer
    schedule = make_schedule(c, config.steps)
    if c.name == "adamw":
        update = optax.adamw(schedule, b1=c.b1, b2=c.b2, weight_decay=c.weight_decay, mask=weight_decay_mask)
    elif c.name == "muon":
        update = muon(
            lambda step: c.matrix_rate * schedule(step),
            weight_decay=c.weight_decay,
            adam_b1=c.b1,
            adam_b2=c.b2,
            adam_learning_rate=schedule,
            muon_weight_dimension_numbers=matrices,
        )
    else:
        raise ValueError(f"optimizer.name is adamw or muon, got {c.name!r}")
    return optax.chain(optax.clip_by_global_norm(c.clip), update), schedule


def make_schedule(options: FrozenConfigDict, steps: int) -> optax.Schedule:
    """Create the learning rate schedule of `steps` steps."""
    peak, warmup, final = options.learning_rate, options.warmup, options.final
    first, rest = peak / (warmup + 1), max(steps - warmup, 1)
    decays = {
        "cosine": optax.cosine_decay_schedule(peak, rest, alpha=final / peak if peak else 0.0),
        "linear": optax.linear_schedule(peak, final, rest),
        "constant": optax.constant_schedule(peak),
    }
    name = options.get("schedule", "cosine")
    if name not in decays:
        raise ValueError(f"optimizer.schedule is one of {', '.join(decays)}, got {name!r}")
    return optax.join_schedules([optax.linear_schedule(first, peak, warmup), decays[name]], [warmup])


def matrices(params: dict) -> dict:
    """Return a tree like the parameters: Muon's dimension numbers for the kernels of the layers, None elsewhere."""

    def numbers(path: tuple[Any, ...], _: Any) -> MuonDimensionNumbers | None:
        names = [entry.key for entry in path]
        return _MATRICES[names[-2]] if "layers" in names and names[-1] == "kernel" else None

    return jax.tree.map_with_path(numbers, params)
