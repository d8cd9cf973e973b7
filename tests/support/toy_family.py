"""A family from outside the package: a decoder with feed-forward layers of a low rank, an axis with a name of its own.

Importing it registers it; tests import it inside a fixture that undoes this.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax

import jaxmodels as jm
from jaxmodels.architectures import decoder, heads
from jaxmodels.architectures.rules import out_projection_rules, projection_rules
from jaxmodels.config import NO_LIMIT, Config, fields
from jaxmodels.convert import Rule, Table
from jaxmodels.layers.attention import Attention
from jaxmodels.layers.inputs import AttentionInputs
from jaxmodels.layers.linear import Initializer, Linear, rms_norm, scaled_normal
from jaxmodels.layers.rotary import RotaryEmbedding
from jaxmodels.layers.stack import Layer

jm.sharding.AXES["rank"] = "rank of the toy family's feed-forward layers"


class ToyConfig(Config):
    model_type: ClassVar[str] = "toy"
    aliases: ClassVar[Mapping[str, str]] = {"num_hidden_layers": "depth", "num_attention_heads": "num_heads"}

    vocab_size: fields.NumEmbeddings = 67
    hidden_size: fields.HiddenSize = 32
    depth: fields.NumLayers = 2
    num_heads: fields.NumHeads = 4
    rank: fields.HiddenSize = 8
    initializer_range: fields.InitializerScale = 0.2
    eos_token_id: fields.TokenId | tuple[fields.TokenId, ...] | None = None

    @property
    def max_tokens(self) -> int:
        return NO_LIMIT

    @property
    def cache_sizes(self) -> dict[str, int]:
        return {"layers": self.depth, "heads": 2, "head_dim": 8}


class LowRank(nn.Module):
    """tanh(x A) B."""

    rank: int
    kernel_init: Initializer
    dtypes: Mapping[str, Any]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        down = Linear((self.rank,), ("embed", "rank"), self.kernel_init, False, **self.dtypes, name="a")
        up = Linear((x.shape[-1],), ("rank", "embed"), self.kernel_init, False, **self.dtypes, name="b")
        return up(jax.numpy.tanh(down(x)))


_TORCH, _OURS = "blocks.{i}", "h/layers"


class ToyModel(decoder.DecoderModel):
    """The transformer without a head."""

    config_class = ToyConfig
    table = Table(
        base="toy",
        rules=(
            Rule("tokens.weight", "wte/embedding"),
            Rule("norm.weight", "ln_f/scale"),
            Rule(f"{_TORCH}.norm1.weight", f"{_OURS}/attention_norm/scale"),
            Rule(f"{_TORCH}.norm2.weight", f"{_OURS}/feed_forward_norm/scale"),
            *projection_rules((f"{_TORCH}.q",), f"{_OURS}/attention/q"),
            *projection_rules((f"{_TORCH}.k", f"{_TORCH}.v"), f"{_OURS}/attention/kv"),
            *out_projection_rules(f"{_TORCH}.o", f"{_OURS}/attention/out"),
            Rule(f"{_TORCH}.a.weight", f"{_OURS}/feed_forward/a/kernel", "o i -> i o"),
            Rule(f"{_TORCH}.b.weight", f"{_OURS}/feed_forward/b/kernel", "o i -> i o"),
        ),
        heads=(Rule("lm_head.weight", "lm_head/kernel", "o i -> i o"),),
        tied={"lm_head.weight": "tokens.weight"},
    )
    learned_positions = False
    token_types = False

    def attention_inputs(self, positions: jax.Array) -> AttentionInputs:
        return AttentionInputs(rotation=RotaryEmbedding(8, 100.0, 64, {})(positions))

    def layer(self) -> Layer:
        c, init, dtypes = self.config, scaled_normal(self.config.initializer_range), self.options.dtypes
        options = {"kv_heads": 2, "use_bias": False, "implementation": self.attention, **dtypes}
        return Layer(
            attention=partial(Attention, c.num_heads, 8, kernel_init=init, out_init=init, **options),
            feed_forward=partial(LowRank, c.rank, init, dtypes),
            norm=partial(rms_norm, 1e-6, **dtypes),
            parent=None,
        )


class ToyForCausalLM(heads.ForCausalLM):
    body = ToyModel


jm.register(ToyModel, ToyForCausalLM)
