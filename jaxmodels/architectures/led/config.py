"""LED's facts (reference: transformers/models/led/configuration_led.py)."""

from collections.abc import Mapping
from typing import ClassVar

from jaxmodels.architectures.bart.config import BartLikeConfig
from jaxmodels.config.fields import Count, Rows


class LEDConfig(BartLikeConfig):
    """Configuration of LED; names and defaults are Hugging Face's.

    attention_window: tokens that each token sees around it in the encoder, half of them on either side: an even
      number, or one for each encoder layer (docs/parity.md, L2).
    """

    model_type: ClassVar[str] = "led"
    no_effect: ClassVar[Mapping[str, str]] = {
        **BartLikeConfig.no_effect,
        "scale_embedding": "of BART, from which it was converted; LED does not scale",
        "max_position_embeddings": "of BART, from which it was converted; LED has one table for each stack",
    }

    max_encoder_position_embeddings: Rows = 16384
    max_decoder_position_embeddings: Rows = 1024
    attention_window: Count | tuple[Count, ...] = 512

    @property
    def max_tokens(self) -> int:
        return self.max_decoder_position_embeddings

    @property
    def max_source_tokens(self) -> int:
        return self.max_encoder_position_embeddings

    @property
    def windows(self) -> tuple[int, ...]:
        """The window of every encoder layer."""
        windows = self.attention_window
        return windows if isinstance(windows, tuple) else (windows,) * self.encoder_layers

    def validate(self):
        super().validate()
        if len(self.windows) != self.encoder_layers:
            raise ValueError(
                f"LEDConfig: attention_window has one value, or one for each of the {self.encoder_layers} encoder "
                f"layers; got {len(self.windows)}"
            )
        for window in self.windows:
            if window % 2:
                raise ValueError(f"LEDConfig: attention_window is an even number of tokens above 0, got {window!r}")
