"""LED, the Longformer encoder-decoder (Beltagy et al., 2020, arXiv:2004.05150; reference: .../led/modeling_led.py).

An encoder whose tokens see a window and a few global tokens, and BART's decoder, which sees all that was encoded.
"""

from functools import partial
from itertools import groupby

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.architectures.bart.decoder import BartDecoder, BartEmbeddings, bart_layer
from jaxmodels.architectures.bart.model import BartCaching, BartLikeModel
from jaxmodels.architectures.base import Configured
from jaxmodels.architectures.inputs import warn_of_unmasked_padding, words
from jaxmodels.architectures.led.config import LEDConfig
from jaxmodels.architectures.led.outputs import LEDEncoderBaseModelOutput, LEDSeq2SeqModelOutput
from jaxmodels.architectures.led.visibility import Visibility, check_flags, check_room, visibility
from jaxmodels.architectures.led.weights import TABLE
from jaxmodels.architectures.pruning import layer_head_mask
from jaxmodels.layers.linear import Embedding, scaled_normal
from jaxmodels.layers.longformer import LongformerAttention
from jaxmodels.layers.stack import Stack


class LEDPreTrainedModel(BartCaching):
    """What LED's classes share.

    Attributes:
      max_global_tokens: global tokens that an example may have. It is static, so that neither their number nor their
        places compile anything anew. None takes it from the mask, which is then not to be traced. A mask with more is
        a ValueError, or, where it is traced, makes that example NaN.
    """

    config_class = LEDConfig
    table = TABLE

    max_global_tokens: int | None = None

    encoding_options = ("global_attention_mask", "max_global_tokens")

    @property
    def max_tokens(self) -> int:
        """The longest output, in tokens."""
        return self.config.max_decoder_position_embeddings

    @property
    def max_source_tokens(self) -> int:
        return self.config.max_encoder_position_embeddings

    def encoder_inputs(self, options):
        mask, slots = options.get("global_attention_mask"), options.get("max_global_tokens")
        slots = self.max_global_tokens if slots is None else slots
        if mask is None:
            return {}, ()
        mask = np.asarray(mask)
        check_flags(mask)
        most = int((mask == 1).sum(axis=1).max(initial=0))
        check_room(most, slots)  # here, because under the loop's jit nothing can be raised
        if slots is None:  # a power of two, so that another number of global tokens seldom compiles anew
            slots = 1 << (most - 1).bit_length() if most else 0
        return {"global_attention_mask": mask}, (("max_global_tokens", slots),)

    def encoder_attentions(self, attentions, inputs, rows, length):
        """Their keys are no tokens, but slots for global tokens and a window: spare slots are left out."""
        used, windows = 0, self.config.windows
        if "global_attention_mask" in inputs:
            used = int(((inputs["global_attention_mask"] == 1) & (inputs["attention_mask"] == 1)).sum(axis=1).max())

        def cut(layers, window):
            spare = slice(used, layers.shape[-1] - (window + 1))
            return jnp.delete(layers[..., :rows, :, :length, :], spare, axis=-1)

        if isinstance(attentions, tuple):
            return tuple(map(cut, attentions, windows))
        return cut(attentions, windows[0])


class LEDEncoder(Configured):
    """Layers that see a window, and a few tokens from everywhere.

    Attributes:
      embed_tokens: the table of the words that it reads; it gets their vectors.
    """

    config: LEDConfig
    embed_tokens: Embedding | None = None

    def setup(self):
        c, init = self.config, scaled_normal(self.config.init_std)
        limit = "max_encoder_position_embeddings"
        self.embeddings = BartEmbeddings(c, positions=c.max_encoder_position_embeddings, limit=limit, **self.kinds)
        heads = c.encoder_attention_heads
        own = partial(
            LongformerAttention,
            heads,
            c.d_model // heads,
            kernel_init=init,
            out_init=init,
            dropout=c.attention_dropout,
            implementation=self.attention,
            **self.kinds,
        )
        layer = partial(bart_layer, c, "encoder", attention=self.attention, own_attention=own, **self.kinds)
        self.stack = Stack(layer, c.encoder_layers, self.remat, self.unroll, c.encoder_layerdrop)

    def __call__(self, x, visible: Visibility, head_mask, *, output_attentions, output_hidden_states):
        """Word vectors [B,S,D] -> LEDEncoderBaseModelOutput.

        The reference pads to a multiple of the window and cuts that off again, for the sake of its chunks; here no
        token is added, and the numbers are the same.
        """
        c = self.config
        x = self.embeddings(x)
        if visible.surplus is not None:
            x = jnp.where(visible.surplus[:, None, None], jnp.nan, x)
        heads = layer_head_mask("head_mask", head_mask, c.encoder_layers, c.encoder_attention_heads)
        parts, first = [], 0
        # The window is static: layers of the same one are one loop.
        for window, group in groupby(c.windows):
            part = slice(first, first := first + len(list(group)))
            out = self.stack(
                x,
                shared={"output_attentions": output_attentions, "mask": visible.mask(window)},
                per_layer={name: mask[part] for name, mask in heads.items()},
                output_hidden_states=output_hidden_states,
                part=part,
            )
            x = out.last
            parts.append(out)
        states = jnp.concatenate([*(p.hidden_states for p in parts), x[None]]) if output_hidden_states else None
        return LEDEncoderBaseModelOutput(
            last_hidden_state=x,
            hidden_states=states,
            **(self._attentions([p.attentions for p in parts], x.shape[1]) if output_attentions else {}),
        )

    def _attentions(self, parts, length: int) -> dict:
        """Of all layers: stacked, or a tuple where the windows differ."""
        local, wide = zip(*parts, strict=True)
        result = {"attentions": local[0] if len(local) == 1 else tuple(layer for part in local for layer in part)}
        if wide[0] is not None:
            surplus = -length % max(self.config.windows)
            edges = ((0, 0),) * 3 + ((0, surplus), (0, 0))
            result["global_attentions"] = jnp.pad(jnp.concatenate(wide), edges)
        return result


class LEDModel(BartLikeModel, LEDPreTrainedModel):
    """Encoder and decoder without a head. See `Seq2SeqModel` for the arguments of a call, and `encode` for LED's own.

    Without decoder inputs the decoder reads input_ids, shifted right.
    """

    output_class = LEDSeq2SeqModelOutput

    def setup_stacks(self):
        c, limit = self.config, "max_decoder_position_embeddings"
        self.encoder = LEDEncoder(c, embed_tokens=self.shared, **self.choices)
        where = {"positions": c.max_decoder_position_embeddings, "limit": limit}
        self.decoder = BartDecoder(c, embed_tokens=self.shared, **where, **self.choices)

    def encode(
        self,
        input_ids: jax.Array | None = None,
        *,
        attention_mask: jax.Array | None = None,
        global_attention_mask: jax.Array | None = None,
        max_global_tokens: int | None = None,
        head_mask: jax.Array | None = None,
        inputs_embeds: jax.Array | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> LEDEncoderBaseModelOutput | tuple:
        """Runs the encoder; what is not named here is as in the call.

        Args:
          global_attention_mask: [B,S], 1 for tokens that attend to all others and that all others attend to: the first
            token for classification, the question for answers, the query for summaries. -1 marks padding.
          max_global_tokens: in place of the model's.

        Raises:
          ValueError: a mask of another shape or with other values, or more global tokens than there is room for.
        """
        x, _ = words(partial(self.vectors, self.encoder.embed_tokens), self.config, input_ids, inputs_embeds)
        if attention_mask is None and global_attention_mask is None and input_ids is not None:
            warn_of_unmasked_padding(input_ids, self.config.pad_token_id)
        slots = self.max_global_tokens if max_global_tokens is None else max_global_tokens
        visible = visibility(attention_mask, global_attention_mask, *x.shape[:2], slots)
        attentions, hidden = self.asked(output_attentions, output_hidden_states)
        out = self.encoder(x, visible, head_mask, output_attentions=attentions, output_hidden_states=hidden)
        return self.answer(out, return_dict)
