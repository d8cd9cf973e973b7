"""Calls of `pallas_kernels.decode` and their expected results."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from support.interpreted import interpreter_of

from pallas_kernels import DenseBias, Mask, PackedKV, RelativeKeyBias, ToeplitzBias, decode
from pallas_kernels.api import decode_with_kernel


def random(seed: int, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


class Decoder(NamedTuple):
    """`decode` by the name of an implementation, or by a kernel's `attend` with other sizes."""

    name: str
    attend: Callable | None = None

    def __call__(self, q, packed, **options) -> jax.Array:
        if self.attend is None:
            return decode(q, packed, implementation=self.name, **options)
        return decode_with_kernel(self.attend, q, packed, **options)


XLA, GPU = Decoder("xla"), Decoder("pallas_gpu")


@dataclass(frozen=True)
class DecodeCase:
    """T queries, S slots. G: key heads, None for H. start: of the queries, one or per example. valid: "some" or "none"
    of the first example's slots are valid. bias: names of `biases`, separated by spaces."""

    T: int
    S: int
    B: int = 2
    H: int = 3
    G: int | None = None
    K: int = 16
    dtype: str = "float32"
    causal: bool = False
    start: int | tuple[int, ...] | None = None
    valid: str | None = None
    bias: str = ""

    def mask(self) -> Mask:
        flags = {"some": np.arange(self.S) % 3 > 0, "none": np.zeros(self.S, bool)}
        valid = None
        if self.valid:
            valid = jnp.asarray(np.stack([flags[self.valid], *[flags["some"]] * (self.B - 1)]))
        start = None if self.start is None else jnp.asarray(self.start, jnp.int32)
        return Mask(self.causal, key_valid=valid, query_start=start)

    def biases(self):
        T, S, H, K = self.T, self.S, self.H, self.K
        builders = {
            "dense": lambda: DenseBias(random(7, (self.B, 1, T, S))),
            "toeplitz": lambda: ToeplitzBias(random(8, (H, T + S - 1))),
            "relative_key_query": lambda: RelativeKeyBias(random(9, (2 * S - 1, K)), True),
        }
        return tuple(builders[name]() for name in self.bias.split())

    def arrays(self) -> tuple[jax.Array, PackedKV]:
        shapes = ((self.T, self.H), *[(self.S, self.G or self.H)] * 2)
        q, key, value = (random(i, (self.B, *shape, self.K)) for i, shape in enumerate(shapes))
        if self.dtype != "int8":
            return q.astype(self.dtype), PackedKV(
                *(x.reshape(self.B, self.S, -1).astype(self.dtype) for x in (key, value))
            )
        scales = [jnp.abs(x).max(axis=-1) / 127 for x in (key, value)]
        quantized = [
            jnp.round(x / scale[..., None]).astype(jnp.int8) for x, scale in zip((key, value), scales, strict=True)
        ]
        return q, PackedKV(*(x.reshape(self.B, self.S, -1) for x in quantized), *(s.swapaxes(1, 2) for s in scales))

    def run(self, run: Decoder) -> np.ndarray:
        """float32 [B,T,H,K]."""
        (q, packed), mask, bias = self.arrays(), self.mask(), self.biases()

        @jax.jit
        def value(q, packed, mask, bias):
            return run(q, packed, mask=mask, bias=bias, scale=0.3)

        with jax.default_matmul_precision("highest"), interpreter_of(run.name):
            return np.asarray(value(q, packed, mask, bias), np.float32)


def assert_matches_reference(case: DecodeCase, kernel: Decoder, atol: float = 4e-6) -> None:
    """The kernel gives the result of the reference over the unpacked cache."""
    expected, actual = case.run(XLA), case.run(kernel)
    assert np.isfinite(actual).all()
    np.testing.assert_allclose(actual, expected, atol=atol)
    if case.valid == "none":
        assert not actual[0].any()
