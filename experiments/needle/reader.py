"""LED whose decoder is shown the question's states only: what it knows of the text, the encoder has brought there."""

import flax.linen as nn
import jax
import jax.numpy as jnp

import jaxmodels as jm
from experiments.data.needle import QUESTION


class Reader(nn.Module):
    """An LED that answers the question at the beginning of a text with one token.

    LED's decoder attends to all of the text and would find any fact by itself. Here it reads the encoder's states of
    the first QUESTION tokens, so the answer has to come through the encoder: through global tokens, or through windows
    on top of each other.
    """

    led: jm.LEDForConditionalGeneration

    def __call__(self, input_ids: jax.Array, *, global_attention_mask: jax.Array, labels: jax.Array):
        """Texts [B,T], masks [B,T] and answers [B,1] -> LEDSeq2SeqLMOutput with loss and logits [B,1,V]."""
        encoded = self.led.encode(
            input_ids,
            global_attention_mask=global_attention_mask,
            max_global_tokens=QUESTION,
            return_dict=True,
        )
        return self.led(labels=labels, encoder_outputs=(encoded.last_hidden_state[:, :QUESTION],))

    def dummy_inputs(self) -> dict[str, jax.Array]:
        """The smallest inputs that reach every parameter, for initialisation."""
        ids = jnp.zeros((1, QUESTION), jnp.int32)
        return {"input_ids": ids, "global_attention_mask": ids, "labels": ids[:, :1]}
