"""Configuration of LED (reference: transformers/models/led/configuration_led.py)."""

from collections.abc import Mapping
from typing import ClassVar

from jaxmodels.architectures.bart.config import BartLikeConfig
from jaxmodels.config.fields import NumEmbeddings, PositiveInt


class LEDConfig(BartLikeConfig):
    """Configuration of LED, with Hugging Face's names and defaults.

    Attributes:
      attention_window: size of the attention window of the encoder, half of it on each side of a token: an even
        number, or one for each encoder layer (docs/parity.md, L2).
    """

    model_type: ClassVar[str] = "led"
    no_effect: ClassVar[Mapping[str, str]] = {
        **BartLikeConfig.no_effect,
        "scale_embedding": "of the BART that it was converted from; LED does not scale its embeddings",
        "max_position_embeddings": "of the BART that it was converted from; LED has one for each stack",
    }

    max_encoder_position_embeddings: NumEmbeddings = 16384
    max_decoder_position_embeddings: NumEmbeddings = 1024
    attention_window: PositiveInt | tuple[PositiveInt, ...] = 512

    @property
    def max_tokens(self) -> int:
        return self.max_decoder_position_embeddings

    @property
    def max_source_tokens(self) -> int:
        return self.max_encoder_position_embeddings

    @property
    def windows(self) -> tuple[int, ...]:
        """The attention window of each encoder layer."""
        windows = self.attention_window
        return windows if isinstance(windows, tuple) else (windows,) * self.encoder_layers

    def validate(self) -> None:
        super().validate()
        if len(self.windows) != self.encoder_layers:
            raise ValueError(
                f"LEDConfig: attention_window must be one number or one for each of the {self.encoder_layers} encoder "
                f"layers; got {len(self.windows)}"
            )
        for window in self.windows:
            if window % 2:
                raise ValueError(f"LEDConfig: attention_window must be an even number above 0, got {window!r}")
