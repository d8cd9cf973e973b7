"""What `python -m jaxmodels estimate` prints: a row for each figure."""

import jax
import jax.numpy as jnp

from jaxmodels.architectures.base import Model
from jaxmodels.estimate import Estimate, Floor, Generation
from jaxmodels.parameters import abstract


def lines(model: Model, found: Estimate) -> list[str]:
    """The rows of a training step, of a forward pass, or of a call of `generate`."""
    rows = _of_call(found) if isinstance(found, Generation) else _of_step(found)
    count = sum(leaf.size for leaf in jax.tree.leaves(abstract(model)))
    total, sent = found.device.memory * 2**30, found.collectives
    rows = {
        "model": f"{type(model).__name__}, {count:,} parameters",
        "slice": f"{found.topology}, {found.devices} x {found.device.memory} GiB",
        "memory per device": f"{_size(found.memory)}, {found.memory / total:.1%} of it",
        **rows,
        "collectives": ", ".join(f"{sent[kind].count} {kind} ({_size(sent[kind].bytes)})" for kind in sorted(sent))
        or "none",
        "not in the floors": "collectives" + _slower(model),
    }
    return [f"{name:21} {value}" for name, value in rows.items()]


def _of_step(found: Estimate) -> dict[str, str]:
    """A donated state is what a training step has."""
    floor, given = found.floor, "state and batch" if found.reused else "parameters, inputs"
    return {
        f"  {given}": _size(found.arguments),
        "  results": _size(found.results - found.reused),
        "  temporary": _size(found.temporaries),
        "FLOPs per device": f"{found.flops:.3g}: {_time(floor.compute)} at peak",
        "bytes per device": f"{_size(found.moved)} read or written at least: {_time(floor.memory)}",
        "step-time floor": _floor(floor),
    }


def _of_call(found: Generation) -> dict[str, str]:
    texts = found.rows * found.new_tokens / found.seconds
    return {
        "  parameters, inputs": _size(found.arguments),
        "  cache": _size(found.cache),
        "  other results": _size(found.results - found.reused - found.cache),
        "  temporary": _size(found.temporaries),
        "FLOPs per device": f"{found.flops:.3g} a call, {found.token_flops:.3g} a further token of each text",
        "first-token floor": _floor(found.first),
        "next-token floor": f"{_floor(found.token)}: {_size(found.weights)} of weights, {_size(found.cache)} of cache",
        "call floor": f"{_time(found.seconds)}, {texts:,.0f} tokens/s "
        f"({found.rows} texts of {found.new_tokens} new tokens)",
    }


def _slower(model: Model) -> str:
    """What the floors take for granted of another compute type than bfloat16."""
    kind = jnp.dtype(model.dtype).name
    return "" if kind == "bfloat16" else f', and that at the matmul precision "highest" {kind} takes six times as long'


def _floor(floor: Floor) -> str:
    return f"{_time(floor.seconds)} ({floor.limit})"


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 / 10 else f"{count / 2**20:.2f} MiB"
