"""Attention of a few queries over a cache on a GPU: the kernel behind the arguments of `pallas_kernels.decode`."""

import jax
import jax.numpy as jnp

from pallas_kernels.decode_shared import operands, without_gradient
from pallas_kernels.gpu.blocks import DECODE, PROGRAMS
from pallas_kernels.gpu.decode_kernel import Plan, decode
from pallas_kernels.gpu.device import Gpu, too_old
from pallas_kernels.gpu.tiles import LEAST, power
from pallas_kernels.stored import Stored

WIDEST = 128
DTYPES = ("bfloat16", "float16", "float32")
# Offsets are int32.
LARGEST = 2**31


def refuses(q, stored: Stored, gpu: Gpu | None = None) -> str | None:
    """Why the kernel cannot take the call, in words; None where it can. gpu: None for what is here."""
    T, K, Kv = q.shape[1], q.shape[3], stored.value.shape[2] // q.shape[2]
    if reason := too_old(gpu):
        return reason
    if T > LEAST:
        return f"the kernel for decoding has up to {LEAST} queries; there are {T}"
    kinds = [str(x.dtype) for x in (q, stored.key, stored.value)]
    if kinds[0] not in DTYPES or not set(kinds[1:]) <= {*DTYPES, "int8"}:
        return f"queries are {', '.join(DTYPES)}, keys and values int8 too; they are {', '.join(kinds)}"
    if max(K, Kv) > WIDEST:
        return f"heads are at most {WIDEST} wide; K = {K}, Kv = {Kv}"
    if max(stored.key.size, stored.value.size) > LARGEST:
        return f"a cache has at most {LARGEST} numbers in its keys, and in its values; its keys are {stored.key.shape}"
    return None


def attend(q, stored: Stored, *, mask, biases, scale, programs: int = PROGRAMS) -> jax.Array:
    """[B,T,H,Kv] in q's dtype. q [B,T,H,K]; programs: the least number of them; for the rest see
    `pallas_kernels.decode`."""
    x = operands(q, stored, mask=mask, biases=biases, scale=scale)
    K = q.shape[3]
    return _decode(_plan(q, stored, programs), x._replace(q=jnp.pad(x.q, [(0, 0)] * 3 + [(0, power(K) - K)])))


_decode = without_gradient(decode)


def _plan(q, stored: Stored, programs: int) -> Plan:
    (B, _, H, _), S = q.shape, stored.key.shape[1]
    K, Kv = (x.shape[2] // H for x in stored[:2])
    tile = DECODE[max(x.dtype.itemsize for x in stored[:2])]
    return Plan(K, Kv, min(-(-programs // (B * H)), -(-S // LEAST)), tile)
