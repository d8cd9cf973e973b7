"""GPT-2's facts (reference: transformers/models/gpt2/configuration_gpt2.py)."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from jaxmodels.architectures.checks import check_activation, check_heads
from jaxmodels.config import Config
from jaxmodels.config.fields import Heads, Layers, Rate, Rows, Share, Spread, TokenId, Width


class GPT2Config(Config):
    """Configuration of GPT-2; names and defaults are Hugging Face's, the defaults are GPT-2 small's."""

    model_type: ClassVar[str] = "gpt2"
    aliases: ClassVar[Mapping[str, str]] = {
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    }
    no_effect: ClassVar[Mapping[str, str]] = {
        "n_ctx": "an older name of n_positions that the reference does not read either",
        "n_special": "of the first GPT; the reference does not read it",
        "predict_special_tokens": "of the first GPT; the reference does not read it",
    }

    vocab_size: Rows = 50257
    n_positions: Rows = 1024
    n_embd: Width = 768
    n_layer: Layers = 12
    n_head: Heads = 12
    n_inner: Width | None = None
    activation_function: str = "gelu_new"
    resid_pdrop: Rate = 0.1
    embd_pdrop: Rate = 0.1
    attn_pdrop: Rate = 0.1
    layer_norm_epsilon: Share = 1e-5
    initializer_range: Spread = 0.02
    summary_type: Literal["last", "first", "mean", "cls_index", "attn"] = "cls_index"
    summary_use_proj: bool = True
    summary_activation: str | None = None
    summary_proj_to_labels: bool = True
    summary_first_dropout: Rate = 0.1
    summary_last_dropout: Rate = 0.0
    classifier_dropout: Rate | None = None
    hidden_dropout: Rate | None = None
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    # Scores and softmax are float32 in every implementation here, so both values give the same numbers.
    reorder_and_upcast_attn: bool = False
    bos_token_id: TokenId | None = 50256
    eos_token_id: TokenId | tuple[TokenId, ...] | None = 50256

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head

    @property
    def cache_sizes(self) -> dict[str, int]:
        return {"layers": self.n_layer, "heads": self.n_head, "head_dim": self.head_dim}

    @property
    def mlp_dim(self) -> int:
        return 4 * self.n_embd if self.n_inner is None else self.n_inner

    def validate(self):
        check_heads(self)
        check_activation(self, "activation_function", self.activation_function)
        if self.summary_activation:
            check_activation(self, "summary_activation", self.summary_activation)
        if self.summary_type == "attn":
            raise NotImplementedError("GPT2Config: summary_type='attn' is not implemented in the reference either")
