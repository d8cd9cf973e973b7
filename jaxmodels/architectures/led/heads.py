"""LED with its heads (reference: transformers/models/led/modeling_led.py)."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.architectures.bart.model import LanguageHead
from jaxmodels.architectures.base import Configured
from jaxmodels.architectures.inputs import is_concrete
from jaxmodels.architectures.led.config import LEDConfig
from jaxmodels.architectures.led.model import LEDModel, LEDPreTrainedModel
from jaxmodels.architectures.led.outputs import (
    LEDSeq2SeqLMOutput,
    LEDSeq2SeqQuestionAnsweringModelOutput,
    LEDSeq2SeqSequenceClassifierOutput,
)
from jaxmodels.architectures.seq2seq import Seq2SeqHead
from jaxmodels.layers.linear import Linear, dropout, scaled_normal
from jaxmodels.layers.losses import classification_loss, span_loss
from jaxmodels.outputs import Output


class LEDForConditionalGeneration(LanguageHead, LEDPreTrainedModel):
    """LED with its language model head. See `Seq2SeqModel` and `LEDModel.encode` for the arguments of a call, and:

    labels: int [B,T], scored against the logits at the same place (not shifted); -100 is ignored. Without decoder
      inputs they are these too, shifted right.
    """

    body = LEDModel
    output_class = LEDSeq2SeqLMOutput

    def setup(self):
        self.led = LEDModel(self.config, max_global_tokens=self.max_global_tokens, **self.choices)
        self.setup_head()

    @property
    def base(self) -> LEDModel:
        return self.led


class _LEDHead(Seq2SeqHead, LEDPreTrainedModel):
    body = LEDModel

    def setup(self):
        self.led = LEDModel(self.config, max_global_tokens=self.max_global_tokens, **self.choices)
        self.setup_head()

    def setup_head(self) -> None:
        raise NotImplementedError

    @property
    def base(self) -> LEDModel:
        return self.led


class ClassificationHead(Configured):
    """dropout -> dense -> tanh -> dropout -> out_proj."""

    config: LEDConfig

    def setup(self):
        c = self.config
        init = scaled_normal(c.init_std)
        self.dense = Linear((c.d_model,), ("embed", None), init, True, **self.kinds)
        self.out_proj = Linear((c.num_labels,), ("embed", None), init, True, **self.kinds)

    def __call__(self, states: jax.Array) -> jax.Array:
        """[B,D] -> float32 [B,num_labels]."""
        rate = self.config.classifier_dropout
        x = jnp.tanh(self.dense(dropout(self, states, rate)))
        return self.out_proj(dropout(self, x, rate)).astype(jnp.float32)


class LEDForSequenceClassification(_LEDHead):
    """Classifies the decoder's state at the last eos of input_ids. See `LEDModel` for the arguments of a call, and:

    labels: int [B], or float [B] or [B,num_labels]; see `classification_loss`.

    Raises:
      NotImplementedError: inputs_embeds, which have no eos.
      ValueError: rows with different numbers of eos (under jit they become NaN), or none.
    """

    def setup_head(self):
        self.classification_head = ClassificationHead(self.config, **self.choices)

    def __call__(
        self,
        input_ids: jax.Array | None = None,
        *,
        labels: jax.Array | None = None,
        return_dict: bool | None = None,
        **options,
    ) -> Output | tuple:
        if input_ids is None:
            raise NotImplementedError("LEDForSequenceClassification reads the eos in input_ids; inputs_embeds has none")
        is_eos = self._eos(input_ids)
        out = self.led(input_ids, return_dict=True, **options)
        states = out.last_hidden_state
        if is_eos.shape != states.shape[:2]:
            raise ValueError(
                f"the decoder's states are read where input_ids has its last eos: both have the same length; "
                f"input_ids {is_eos.shape}, decoder {states.shape[:2]}"
            )
        last = is_eos.shape[1] - 1 - jnp.argmax(is_eos[:, ::-1], axis=1)
        pooled = jnp.take_along_axis(states, last[:, None, None], axis=1)[:, 0]
        counts = is_eos.sum(axis=1)
        pooled = jnp.where((counts == counts[0]).all() & (counts > 0)[:, None], pooled, jnp.nan)
        logits = self.classification_head(pooled)
        loss = None
        if labels is not None:
            c = self.config
            loss = classification_loss(logits, jnp.asarray(labels), c.problem_type, c.num_labels)
        return self.headed(LEDSeq2SeqSequenceClassifierOutput, out, return_dict, loss=loss, logits=logits)

    def _eos(self, input_ids) -> jax.Array:
        eos = self.config.eos_token_id
        if not isinstance(eos, int):
            raise ValueError(f"LEDForSequenceClassification needs one eos_token_id in its config, got {eos!r}")
        if is_concrete(input_ids) and not self.is_initializing():
            counts = (np.asarray(input_ids) == eos).sum(axis=-1)
            if np.unique(counts).size > 1 or counts.min() == 0:
                raise ValueError(f"all rows have the same number of eos ({eos}), at least one; got {counts.tolist()}")
        return jnp.asarray(input_ids) == eos


class LEDForQuestionAnswering(_LEDHead):
    """Scores every decoder position as start and end of the answer. See `LEDModel` for the arguments of a call, and:

    start_positions, end_positions: int [B]; beyond the text they are ignored.
    """

    def setup_head(self):
        init = scaled_normal(self.config.init_std)
        self.qa_outputs = Linear((2,), ("embed", None), init, True, **self.kinds)

    def __call__(
        self,
        input_ids: jax.Array | None = None,
        *,
        start_positions: jax.Array | None = None,
        end_positions: jax.Array | None = None,
        return_dict: bool | None = None,
        **options,
    ) -> Output | tuple:
        if (start_positions is None) != (end_positions is None):
            raise ValueError("start_positions and end_positions go together: give both or neither")
        out = self.led(input_ids, return_dict=True, **options)
        start, end = jnp.moveaxis(self.qa_outputs(out.last_hidden_state).astype(jnp.float32), -1, 0)
        loss = None
        if start_positions is not None:
            loss = span_loss(start, end, jnp.asarray(start_positions), jnp.asarray(end_positions))
        output = LEDSeq2SeqQuestionAnsweringModelOutput
        return self.headed(output, out, return_dict, loss=loss, start_logits=start, end_logits=end)
