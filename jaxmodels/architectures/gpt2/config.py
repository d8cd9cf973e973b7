"""Configuration of GPT-2 (reference: transformers/models/gpt2/configuration_gpt2.py)."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from jaxmodels.architectures.checks import check_activation, check_heads
from jaxmodels.config import Config
from jaxmodels.config.fields import (
    DropoutRate,
    Epsilon,
    HiddenSize,
    InitializerScale,
    NumEmbeddings,
    NumHeads,
    NumLayers,
    TokenId,
)


class GPT2Config(Config):
    """Configuration of GPT-2, with Hugging Face's names; the defaults are those of GPT-2 small."""

    model_type: ClassVar[str] = "gpt2"
    aliases: ClassVar[Mapping[str, str]] = {
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    }
    no_effect: ClassVar[Mapping[str, str]] = {
        "n_ctx": "an older name of n_positions that the reference does not read either",
        "n_special": "a key of GPT-1; the reference does not read it",
        "predict_special_tokens": "a key of GPT-1; the reference does not read it",
    }

    vocab_size: NumEmbeddings = 50257
    n_positions: NumEmbeddings = 1024
    n_embd: HiddenSize = 768
    n_layer: NumLayers = 12
    n_head: NumHeads = 12
    n_inner: HiddenSize | None = None
    activation_function: str = "gelu_new"
    resid_pdrop: DropoutRate = 0.1
    embd_pdrop: DropoutRate = 0.1
    attn_pdrop: DropoutRate = 0.1
    layer_norm_epsilon: Epsilon = 1e-5
    initializer_range: InitializerScale = 0.02
    summary_type: Literal["last", "first", "mean", "cls_index", "attn"] = "cls_index"
    summary_use_proj: bool = True
    summary_activation: str | None = None
    summary_proj_to_labels: bool = True
    summary_first_dropout: DropoutRate = 0.1
    summary_last_dropout: DropoutRate = 0.0
    classifier_dropout: DropoutRate | None = None
    hidden_dropout: DropoutRate | None = None
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    # Without effect: all attention implementations compute scores and softmax in float32.
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
    def head_dropout(self) -> float:
        """Rate before the classifier of tokens (docs/parity.md, G16)."""
        return next(rate for rate in (self.classifier_dropout, self.hidden_dropout, 0.1) if rate is not None)

    @property
    def mlp_dim(self) -> int:
        return 4 * self.n_embd if self.n_inner is None else self.n_inner

    def validate(self) -> None:
        check_heads(self)
        check_activation(self, "activation_function", self.activation_function)
        if self.summary_activation:
            check_activation(self, "summary_activation", self.summary_activation)
        if self.summary_type == "attn":
            raise NotImplementedError("GPT2Config: summary_type='attn' is not implemented in the reference either")
