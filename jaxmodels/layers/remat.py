"""Rematerialisation: what a layer keeps for the backward pass, by name, instead of computing it again."""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import jax
from jax.ad_checkpoint import checkpoint_name

from jaxmodels.messages import brief
from pallas_kernels.derivatives import CHECKPOINT_NAME as ATTENTION

# False keeps everything. True is "nothing".
Remat: TypeAlias = bool | Literal["nothing", "dots", "dots_and_attention", "offload"] | tuple[str, ...]
# What may be kept by name: the results of attention, and those of a layer's linear modules, by the module's name.
NAMES = (ATTENTION, "qkv", "q", "kv", "global_q", "global_k", "global_v", "out", "up", "gate_up", "down")

_policies = jax.checkpoint_policies
POLICIES: dict[str, Callable[..., Any] | None] = {
    "nothing": _policies.nothing_saveable,
    # Whatever has a name, so that linear modules of families from elsewhere are kept, too.
    "dots": _policies.save_any_names_but_these(ATTENTION),
    "dots_and_attention": _policies.save_any_names_but_these(),
    "offload": _policies.save_and_offload_only_these_names(
        names_which_can_be_saved=(), names_which_can_be_offloaded=NAMES, offload_src="device", offload_dst="pinned_host"
    ),
}


def check_remat(value: Any) -> None:
    """Raises TypeError or ValueError if the value is none of `Remat`."""
    if isinstance(value, tuple) and value and all(name in NAMES for name in value):
        return
    if isinstance(value, bool) or (isinstance(value, str) and value in POLICIES):
        return
    kind = ValueError if isinstance(value, (str, tuple)) else TypeError
    raise kind(
        f"remat is True or False, one of {', '.join(POLICIES)}, or a tuple of the names that are kept, of "
        f"{', '.join(NAMES)}; got {brief(value)}"
    )


def rematerialise(function: Callable[..., Any], remat: Remat, *, prevent_cse: bool) -> Callable[..., Any]:
    """The function, whose backward pass computes again what `remat` does not keep."""
    if remat is False:
        return function
    if isinstance(remat, tuple):
        policy = _policies.save_only_these_names(*remat)
    else:
        policy = POLICIES["nothing" if remat is True else remat]
    return jax.checkpoint(function, prevent_cse=prevent_cse, policy=policy)


def named(tree: Any, name: str | None) -> Any:
    """The arrays themselves, with the name by which a policy may keep them; compiled programs stay the same."""
    return tree if name is None else checkpoint_name(tree, name)
