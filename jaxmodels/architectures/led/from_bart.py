"""An LED initialized from a BART checkpoint: the recipe by which LED's checkpoints were made.

Reference: Beltagy et al., 2020 (arXiv:2004.05150), section 7, and allenai/longformer,
scripts/convert_bart_to_longformerencoderdecoder.py.
"""

import jax.numpy as jnp

from jaxmodels.architectures.bart.model import OFFSET, BartForConditionalGeneration, BartModel
from jaxmodels.architectures.base import Model
from jaxmodels.architectures.led.config import LEDConfig
from jaxmodels.architectures.led.model import LEDForConditionalGeneration, LEDModel

_CLASSES: dict[type, type[LEDModel] | type[LEDForConditionalGeneration]] = {
    BartModel: LEDModel,
    BartForConditionalGeneration: LEDForConditionalGeneration,
}


def led_from_bart(
    model: Model,
    params: dict,
    *,
    attention_window: int | tuple[int, ...] = 1024,
    max_encoder_position_embeddings: int = 16384,
) -> tuple[LEDModel | LEDForConditionalGeneration, dict]:
    """An LED with BART's weights, for documents of up to `max_encoder_position_embeddings` tokens.

    The encoder's positions are BART's repeated, the global projections are copies of the local ones. On a sequence that
    fits into the window it computes what BART does; longer ones need training.

    Args:
      model, params: a BartModel or a BartForConditionalGeneration, as `jm.load` gives them.

    Raises:
      TypeError: another class.
      ValueError: scale_embedding=True or different token embeddings for the two stacks, which LED does not have; or a
        window that LEDConfig refuses.

    Examples:
      >>> led, params = jm.led_from_bart(*jm.load("facebook/bart-base"))
      >>> type(led).__name__
      'LEDForConditionalGeneration'
    """
    if not isinstance(model, BartModel | BartForConditionalGeneration):
        raise TypeError(f"an LED starts from {' or '.join(c.__name__ for c in _CLASSES)}, got {type(model).__name__}")
    bart = model.config
    if bart.scale_embedding:
        raise ValueError("scale_embedding=True: LED does not scale its embeddings, so this BART cannot become one")
    values = bart.to_dict()
    for name in ("model_type", "architectures", "scale_embedding", "max_position_embeddings"):
        values.pop(name)
    config = LEDConfig(
        **values,
        attention_window=attention_window,
        max_encoder_position_embeddings=max_encoder_position_embeddings,
        max_decoder_position_embeddings=bart.max_position_embeddings,
    )
    head = dict(params)
    base = head.pop("model", params)
    converted = {
        "shared": _one_table(base),
        "encoder": _encoder(base["encoder"], max_encoder_position_embeddings),
        "decoder": _with_positions(base["decoder"], bart.max_position_embeddings),
    }
    led = _CLASSES[type(model)](config, **model.options.keywords)
    return led, {"led": converted, **head} if "model" in params else converted


def _one_table(base: dict) -> dict:
    """What both stacks of LED read, also where a BART has a table for each."""
    if "embed_tokens" not in base["encoder"]:
        return base["shared"]
    encoder, decoder = (base[stack]["embed_tokens"] for stack in ("encoder", "decoder"))
    if not (encoder["embedding"] == decoder["embedding"]).all():
        raise ValueError(
            "encoder/embed_tokens and decoder/embed_tokens are different tables: LED has one table for both stacks, so "
            "this BART cannot become one"
        )
    return encoder


def _with_positions(stack: dict, count: int) -> dict:
    """The stack with `count` positions: BART's, repeated, without the unused ones before the first."""
    positions = stack["embeddings"]["table"]["embedding"][OFFSET:]
    repeated = jnp.tile(positions, (-(-count // positions.shape[0]), 1))[:count]
    rest = {name: part for name, part in stack.items() if name != "embed_tokens"}
    return {**rest, "embeddings": {**stack["embeddings"], "table": {"embedding": repeated}}}


def _encoder(stack: dict, count: int) -> dict:
    layers = stack["stack"]["layers"]
    attention = layers["attention"]
    copies = {
        f"global_{name}": {"kernel": attention["qkv"]["kernel"][:, :, i], "bias": attention["qkv"]["bias"][:, i]}
        for i, name in enumerate("qkv")
    }
    layers = {**layers, "attention": {**attention, **copies}}
    return {**_with_positions(stack, count), "stack": {"layers": layers}}
