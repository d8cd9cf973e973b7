"""Stacks of layers cut into layers: in a program, and outside of one without a copy."""

import jax
import numpy as np

# What a module calls the parameters of its stack, and of a tuple of layers in place of it.
PARAMS = "layers"


def unstack(tree, length: int) -> tuple:
    """A tree of [L, ...] arrays as L trees."""
    return tuple(jax.tree.map(lambda a: a[i], tree) for i in range(length))  # noqa: B023


def unstack_layers(params: dict) -> dict:
    """The same parameters with every stack cut into a tuple of layers, for a decode loop.

    Called once outside the loop: slicing the stack inside it would copy every layer at every token.
    """
    if not isinstance(params, dict):
        return params
    return {
        name: unstack(value, jax.tree.leaves(value)[0].shape[0]) if name == PARAMS else unstack_layers(value)
        for name, value in params.items()
    }


def views_of_layers(params: dict) -> dict | None:
    """`unstack_layers` of parameters on one CPU, where an array may be a part of another; None elsewhere.

    In a program every slice is a copy, and often two: 0.2 s of every call for GPT-2 small, for the page faults of so
    much fresh memory. What is donated while there are views of it is copied by the runtime.
    """
    leaves = jax.tree.leaves(params)
    if not all(isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        return None
    devices = {device for leaf in leaves for device in leaf.devices()}
    if [device.platform for device in devices] != ["cpu"]:
        return None
    return jax.device_put(unstack_layers(jax.tree.map(np.asarray, params)), devices.pop())
