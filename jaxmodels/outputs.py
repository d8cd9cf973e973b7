"""Model outputs: frozen pytrees with the documented field names, also readable by key, index and slice."""

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar, dataclass_transform

import jax

from jaxmodels.arrays import AttentionByLayer, Hidden, HiddenByLayer, Logits, Loss
from jaxmodels.layers.cache import Cache


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Output:
    """Base of the outputs. Fields that were not requested are None; keys, indices and tuples skip them.

    Reference: transformers/utils/generic.py, `ModelOutput`. One difference: layers are stacked, so `hidden_states` is
    one array [L+1,B,T,D] and `attentions` one array [L,B,H,T,S]; `hidden_states[i]` reads the same.
    """

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field]]

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True, kw_only=True)(cls))

    def keys(self) -> list[str]:
        names = type(self).__dataclass_fields__
        return [name for name in names if getattr(self, name) is not None]

    def items(self) -> list[tuple[str, Any]]:
        return [(name, getattr(self, name)) for name in self.keys()]

    def to_tuple(self) -> tuple:
        """The fields that are there, in order."""
        return tuple(value for _, value in self.items())

    def __getitem__(self, key: str | int | slice):
        if isinstance(key, str):
            if key not in self.keys():
                raise KeyError(f"{type(self).__name__} has no {key!r}; it has {', '.join(self.keys())}")
            return getattr(self, key)
        return self.to_tuple()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    def __contains__(self, key: object) -> bool:
        return key in self.keys()


class BaseModelOutput(Output):
    """last_hidden_state [B,T,D]; hidden_states [L+1,B,T,D]; attentions [L,B,H,T,T]."""

    last_hidden_state: Hidden
    hidden_states: HiddenByLayer | None = None
    attentions: AttentionByLayer | None = None


class BaseModelOutputWithPastAndCrossAttentions(Output):
    """last_hidden_state [B,T,D]; hidden_states [L+1,B,T,D]; attentions, cross_attentions [L,B,H,T,S]."""

    last_hidden_state: Hidden
    cache: Cache | None = None
    hidden_states: HiddenByLayer | None = None
    attentions: AttentionByLayer | None = None
    cross_attentions: AttentionByLayer | None = None


class BaseModelOutputWithPoolingAndCrossAttentions(Output):
    """last_hidden_state [B,T,D]; pooler_output [B,D]; hidden_states [L+1,B,T,D]; (cross_)attentions [L,B,H,T,S]."""

    last_hidden_state: Hidden
    pooler_output: jax.Array | None = None
    cache: Cache | None = None
    hidden_states: HiddenByLayer | None = None
    attentions: AttentionByLayer | None = None
    cross_attentions: AttentionByLayer | None = None


class CausalLMOutputWithCrossAttentions(Output):
    """loss: float32 scalar; logits [B,T,V] float32."""

    loss: Loss | None = None
    logits: Logits
    cache: Cache | None = None
    hidden_states: HiddenByLayer | None = None
    attentions: AttentionByLayer | None = None
    cross_attentions: AttentionByLayer | None = None


class MaskedLMOutput(Output):
    """loss: float32 scalar; logits [B,T,V] float32."""

    loss: Loss | None = None
    logits: Logits
    hidden_states: HiddenByLayer | None = None
    attentions: AttentionByLayer | None = None


class SequenceClassifierOutput(Output):
    """loss: float32 scalar; logits [B,num_labels] float32."""

    loss: Loss | None = None
    logits: jax.Array
    hidden_states: HiddenByLayer | None = None
    attentions: AttentionByLayer | None = None


class NextSentencePredictorOutput(Output):
    """loss: float32 scalar; logits [B,2] float32."""

    loss: Loss | None = None
    logits: jax.Array
    hidden_states: HiddenByLayer | None = None
    attentions: AttentionByLayer | None = None


class MultipleChoiceModelOutput(Output):
    """loss: float32 scalar; logits [B,choices] float32; hidden_states and attentions have B*choices rows."""

    loss: Loss | None = None
    logits: jax.Array
    hidden_states: HiddenByLayer | None = None
    attentions: AttentionByLayer | None = None


class SequenceClassifierOutputWithPast(Output):
    """loss: float32 scalar; logits [B,num_labels] float32."""

    loss: Loss | None = None
    logits: jax.Array
    cache: Cache | None = None
    hidden_states: HiddenByLayer | None = None
    attentions: AttentionByLayer | None = None


class TokenClassifierOutput(Output):
    """loss: float32 scalar; logits [B,T,num_labels] float32."""

    loss: Loss | None = None
    logits: jax.Array
    hidden_states: HiddenByLayer | None = None
    attentions: AttentionByLayer | None = None


class QuestionAnsweringModelOutput(Output):
    """loss: float32 scalar; start_logits, end_logits [B,T] float32."""

    loss: Loss | None = None
    start_logits: jax.Array
    end_logits: jax.Array
    hidden_states: HiddenByLayer | None = None
    attentions: AttentionByLayer | None = None


class Seq2SeqModelOutput(Output):
    """Of a decoder over T tokens that reads S encoded ones.

    last_hidden_state [B,T,D]; decoder_hidden_states [L+1,B,T,D]; decoder_attentions [L,B,H,T,T'], cross_attentions
    [L,B,H,T,S] (T': tokens, or slots of the cache); encoder_last_hidden_state [B,S,D], encoder_hidden_states
    [L+1,B,S,D], encoder_attentions [L,B,H,S,S].
    """

    last_hidden_state: Hidden
    cache: Cache | None = None
    decoder_hidden_states: HiddenByLayer | None = None
    decoder_attentions: AttentionByLayer | None = None
    cross_attentions: AttentionByLayer | None = None
    encoder_last_hidden_state: Hidden | None = None
    encoder_hidden_states: HiddenByLayer | None = None
    encoder_attentions: AttentionByLayer | None = None


class Seq2SeqLMOutput(Output):
    """loss: float32 scalar; logits [B,T,V] float32; the rest as in `Seq2SeqModelOutput`."""

    loss: Loss | None = None
    logits: Logits
    cache: Cache | None = None
    decoder_hidden_states: HiddenByLayer | None = None
    decoder_attentions: AttentionByLayer | None = None
    cross_attentions: AttentionByLayer | None = None
    encoder_last_hidden_state: Hidden | None = None
    encoder_hidden_states: HiddenByLayer | None = None
    encoder_attentions: AttentionByLayer | None = None
