"""Rotary position embeddings (Su et al., "RoFormer", 2021, arXiv:2104.09864) and how they are scaled to longer texts.

The types of scaling and their parameters have the names of the reference (transformers/modeling_rope_utils.py).
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.arrays import Heads, TokenIds
from jaxmodels.messages import brief, unknown_name


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rotation:
    """Cosines and sines of the angles by which pairs of features are rotated.

    Attributes:
      cos, sin: float32 [B,T,K/2], or [1,T,K/2] for the whole batch.
    """

    cos: jax.Array
    sin: jax.Array

    def __call__(self, x: Heads) -> jax.Array:
        """Rotates x [B,T,H,K]: feature i is paired with feature i + K/2."""
        first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
        cos, sin = self.cos[:, :, None], self.sin[:, :, None]
        return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class RotaryEmbedding:
    """From positions to rotations.

    Attributes:
      head_dim: K.
      theta: base of the wavelengths.
      max_positions: the config's max_position_embeddings.
      scaling: the config's rope_scaling; its "rope_type" is a key of `SCALINGS`.
    """

    head_dim: int
    theta: float
    max_positions: int
    scaling: Mapping[str, Any]

    @property
    def rope_type(self) -> Any:
        return self.scaling.get("rope_type", self.scaling.get("type", "default"))

    @property
    def original_positions(self) -> int:
        """Length of the texts that the model was trained with before it was scaled."""
        return self.scaling.get(_ORIGINAL) or self.max_positions

    def frequencies(self, theta: Any) -> Any:
        """Angles per position without scaling, float32 [K/2]."""
        return 1.0 / theta ** (np.arange(0, self.head_dim, 2, dtype=np.float32) / np.float32(self.head_dim))

    def __call__(self, positions: TokenIds) -> Rotation:
        """The rotation for positions int [B,T] or [1,T]."""
        frequencies, scale = SCALINGS[self.rope_type].function(self, positions)
        angles = positions[..., None].astype(jnp.float32) * frequencies
        return Rotation(scale * jnp.cos(angles), scale * jnp.sin(angles))

    def validate(self) -> None:
        """Checks the parameters.

        Raises:
          ValueError: an unknown type, a parameter that is missing, unknown or no number, or an odd head_dim.
        """
        if self.head_dim % 2:
            raise ValueError(f"rotary positions need an even head_dim, got {self.head_dim}")
        if self.rope_type not in SCALINGS:
            raise ValueError(unknown_name("rope_scaling has no type", self.rope_type, SCALINGS))
        names = self.scaling.keys() - {"rope_type", "type"}
        kind = SCALINGS[self.rope_type]
        if not set(kind.required) <= names or not names <= {*kind.required, *kind.optional}:
            raise ValueError(
                f"rope_scaling of type {self.rope_type!r} has {', '.join(kind.required) or 'no parameters'}"
                f"{' and may have ' + ', '.join(kind.optional) if kind.optional else ''}; got "
                f"{brief(sorted(names)) if names else 'none'}"
            )
        for name in names:
            self._check_parameter(name, self.scaling[name])

    def _check_parameter(self, name: str, value: Any) -> None:
        required = name in SCALINGS[self.rope_type].required
        if name in ("short_factor", "long_factor"):
            expected = f"{self.head_dim // 2} positive numbers, one for each pair of features"
            valid = isinstance(value, tuple | list) and len(value) == self.head_dim // 2 and all(map(_positive, value))
        elif name == "truncate":
            expected, valid = "True or False", isinstance(value, bool)
        else:
            expected, valid = "a positive number", _positive(value) or (value is None and not required)
        if not valid:
            raise ValueError(f"rope_scaling: {name} must be {expected}, got {brief(value)}")


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _default(rope: RotaryEmbedding, positions: TokenIds) -> tuple[Any, float]:
    return rope.frequencies(rope.theta), 1.0


def _linear(rope: RotaryEmbedding, positions: TokenIds) -> tuple[Any, float]:
    return rope.frequencies(rope.theta) / np.float32(rope.scaling["factor"]), 1.0


def _dynamic(rope: RotaryEmbedding, positions: TokenIds) -> tuple[Any, float]:
    """NTK scaling with the length of the text, from max_position_embeddings on (docs/parity.md, LL4)."""
    factor, size, width = rope.scaling["factor"], rope.max_positions, rope.head_dim
    length = jnp.maximum(positions.max() + 1, size).astype(jnp.float32)
    growth = factor * length / size - (factor - 1.0)
    return rope.frequencies(rope.theta * growth ** (width / (width - 2))), 1.0


def _yarn(rope: RotaryEmbedding, positions: TokenIds) -> tuple[Any, float]:
    """YaRN (Peng et al., 2023, arXiv:2309.00071): short wavelengths are kept and long ones scaled."""
    scaling, factor = rope.scaling, rope.scaling["factor"]

    def default_scale(mscale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0

    def feature(rotations: float) -> float:
        """The pair of features that rotates that many times over the original length."""
        ratio = rope.original_positions / (rotations * 2 * math.pi)
        return rope.head_dim * math.log(ratio) / (2 * math.log(rope.theta))

    scale, mscale, mscale_all = (scaling.get(name) for name in ("attention_factor", "mscale", "mscale_all_dim"))
    if scale is None:
        scale = default_scale(mscale) / default_scale(mscale_all) if mscale and mscale_all else default_scale(1.0)
    low, high = feature(scaling.get("beta_fast") or 32), feature(scaling.get("beta_slow") or 1)
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.head_dim - 1)
    high += 0.001 if low == high else 0.0
    scaled = np.clip((np.arange(rope.head_dim // 2, dtype=np.float32) - low) / (high - low), 0.0, 1.0)
    plain = rope.frequencies(rope.theta)
    return (plain / factor * scaled + plain * (1 - scaled)).astype(np.float32), scale


def _longrope(rope: RotaryEmbedding, positions: TokenIds) -> tuple[Any, float]:
    """LongRoPE (Ding et al., 2024, arXiv:2402.13753): a factor for each wavelength, from one of two lists.

    The text's length chooses the list (docs/parity.md, LL4).
    """
    factor, scale = rope.scaling.get("factor"), rope.scaling.get("attention_factor")
    if scale is None:
        scale = 1.0 if factor is None or factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(rope.max_positions))
    short, long = (np.asarray(rope.scaling[name], np.float32) for name in ("short_factor", "long_factor"))
    plain = rope.frequencies(rope.theta)
    return jnp.where(positions.max() + 1 > rope.max_positions, plain / long, plain / short), scale


def _llama3(rope: RotaryEmbedding, positions: TokenIds) -> tuple[Any, float]:
    """Llama 3.1's: short wavelengths are kept, long ones divided by the factor, those between interpolated."""
    scaling, plain = rope.scaling, rope.frequencies(rope.theta)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    kept = np.clip((rope.original_positions * plain / (2 * np.pi) - low) / (high - low), 0.0, 1.0)
    return ((1 - kept) * plain / scaling["factor"] + kept * plain).astype(np.float32), 1.0


class Scaling(NamedTuple):
    """A type of scaling.

    Attributes:
      function: from positions to the frequencies float32 [K/2] and a factor on the rotated vectors.
      required, optional: names of its parameters.
    """

    function: Callable[[RotaryEmbedding, TokenIds], tuple[Any, float]]
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()


_ORIGINAL = "original_max_position_embeddings"
_YARN = ("attention_factor", "beta_fast", "beta_slow", _ORIGINAL, "mscale", "mscale_all_dim", "truncate")
SCALINGS: dict[str, Scaling] = {
    "default": Scaling(_default),
    "linear": Scaling(_linear, ("factor",)),
    "dynamic": Scaling(_dynamic, ("factor",), (_ORIGINAL,)),
    "yarn": Scaling(_yarn, ("factor",), _YARN),
    "longrope": Scaling(_longrope, ("short_factor", "long_factor"), ("attention_factor", "factor", _ORIGINAL)),
    "llama3": Scaling(_llama3, ("factor", _ORIGINAL, "low_freq_factor", "high_freq_factor")),
}
