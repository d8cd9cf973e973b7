"""LED's tokenizer (Beltagy et al. 2020, "Longformer: The Long-Document Transformer", section 7): BART's."""

from typing import ClassVar

from jaxmodels.tokenization.bart import BartTokenizer


class LEDTokenizer(BartTokenizer):
    """BART's tokenizer whose `pad` also pads a `global_attention_mask`, with -1: 0 says local attention, not none.

    A call does not make that mask; it is 1 where a token sees the whole text, and comes from the caller. `pad` treats
    it like the other fields, with return_attention_mask=False, too, where the reference leaves it as it is.
    Arguments: `RobertaTokenizer`. Source: transformers 4.37.2, tokenization_led.py and tokenization_led_fast.py.
    """

    MODEL_TYPES = ("led",)
    PADDING_VALUES: ClassVar = BartTokenizer.PADDING_VALUES | {"global_attention_mask": -1}
