"""LED's outputs: those of an encoder-decoder, and the attention of its global tokens (docs/parity.md, L1, L8).

S tokens in the encoder, T in the decoder, G slots for global tokens, w the attention window:
  encoder_attentions [L,B,H,S,G+w+1]: first the global tokens, then the window with the token itself in the middle.
    Rows of global tokens are zero. A tuple of layers, where their windows differ.
  encoder_global_attentions [L,B,H,S',G]: what the global tokens attend to; S' is S rounded up to the largest window,
    and zero beyond S, as the reference returns it.
"""

import jax

from jaxmodels.layers.cache import Cache
from jaxmodels.outputs import Output


class LEDEncoderBaseModelOutput(Output):
    """last_hidden_state [B,S,D]; hidden_states [L+1,B,S,D]; attentions, global_attentions: see above."""

    last_hidden_state: jax.Array
    hidden_states: jax.Array | None = None
    attentions: jax.Array | tuple[jax.Array, ...] | None = None
    global_attentions: jax.Array | None = None


class LEDSeq2SeqModelOutput(Output):
    """last_hidden_state [B,T,D]; decoder_hidden_states [L+1,B,T,D]; decoder_attentions [L,B,H,T,T'],
    cross_attentions [L,B,H,T,S]; encoder_last_hidden_state [B,S,D], encoder_hidden_states [L+1,B,S,D];
    encoder_attentions, encoder_global_attentions: see above."""

    last_hidden_state: jax.Array
    cache: Cache | None = None
    decoder_hidden_states: jax.Array | None = None
    decoder_attentions: jax.Array | None = None
    cross_attentions: jax.Array | None = None
    encoder_last_hidden_state: jax.Array | None = None
    encoder_hidden_states: jax.Array | None = None
    encoder_attentions: jax.Array | tuple[jax.Array, ...] | None = None
    encoder_global_attentions: jax.Array | None = None


class LEDSeq2SeqLMOutput(Output):
    """loss: float32 scalar; logits [B,T,V] float32; the rest as in `LEDSeq2SeqModelOutput`."""

    loss: jax.Array | None = None
    logits: jax.Array
    cache: Cache | None = None
    decoder_hidden_states: jax.Array | None = None
    decoder_attentions: jax.Array | None = None
    cross_attentions: jax.Array | None = None
    encoder_last_hidden_state: jax.Array | None = None
    encoder_hidden_states: jax.Array | None = None
    encoder_attentions: jax.Array | tuple[jax.Array, ...] | None = None
    encoder_global_attentions: jax.Array | None = None


class LEDSeq2SeqSequenceClassifierOutput(Output):
    """loss: float32 scalar; logits [B,num_labels] float32; the rest as in `LEDSeq2SeqModelOutput`."""

    loss: jax.Array | None = None
    logits: jax.Array
    cache: Cache | None = None
    decoder_hidden_states: jax.Array | None = None
    decoder_attentions: jax.Array | None = None
    cross_attentions: jax.Array | None = None
    encoder_last_hidden_state: jax.Array | None = None
    encoder_hidden_states: jax.Array | None = None
    encoder_attentions: jax.Array | tuple[jax.Array, ...] | None = None
    encoder_global_attentions: jax.Array | None = None


class LEDSeq2SeqQuestionAnsweringModelOutput(Output):
    """loss: float32 scalar; start_logits, end_logits [B,T] float32; the rest as in `LEDSeq2SeqModelOutput`."""

    loss: jax.Array | None = None
    start_logits: jax.Array
    end_logits: jax.Array
    cache: Cache | None = None
    decoder_hidden_states: jax.Array | None = None
    decoder_attentions: jax.Array | None = None
    cross_attentions: jax.Array | None = None
    encoder_last_hidden_state: jax.Array | None = None
    encoder_hidden_states: jax.Array | None = None
    encoder_attentions: jax.Array | tuple[jax.Array, ...] | None = None
    encoder_global_attentions: jax.Array | None = None
