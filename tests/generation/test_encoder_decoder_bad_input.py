"""Invalid input of encoder-decoders is rejected by name, before anything compiles."""

import numpy as np
import pytest
from support.arrays import flags
from support.diverse_models import generate, random_ids

from jaxmodels.generation.loop import num_compiled

IDS = random_ids(3, 4)
BAD = {
    "no ids": ({"ids": np.zeros((3, 0), int)}, "input_ids must be an int array"),
    "no text": ({"attention_mask": np.ones((3, 4), int) * [[1], [0], [1]]}, "prompt 1 contains only padding"),
    "mask": ({"attention_mask": np.ones((3, 5), int)}, "shape of input_ids"),
    "decoder rows": ({"decoder_input_ids": IDS[:1]}, "decoder_input_ids must have one sequence per input .3., got 1"),
    "decoder id": ({"decoder_input_ids": IDS + 66}, "decoder_input_ids contains ids from"),
    "decoder rank": ({"decoder_input_ids": IDS[0]}, r"decoder_input_ids must be an int array \[B,T\]"),
    "no decoder ids": ({"decoder_input_ids": IDS[:, :0]}, "decoder_input_ids must be an int array"),
    "start": ({"decoder_start_token_id": 67}, "decoder_start_token_id contains 67, outside the vocabulary of 67"),
    "forced": ({"forced_bos_token_id": 67}, "forced_bos_token_id"),
    "unknown": ({"decoder_inputs_ids": IDS}, "no option 'decoder_inputs_ids'"),
    "unknown mask": ({"decoder_attention_mask": IDS}, "no option 'decoder_attention_mask'"),
    "guidance": ({"guidance_scale": 1.5}, "guidance_scale is only for decoder-only models"),
    "negative prompt": ({"negative_prompt_ids": IDS}, "no option 'negative_prompt_ids'"),
    "short": ({"max_length": 1}, "leaves no token to generate"),
    "long input": ({"ids": random_ids(3, 65)}, "65 tokens are more than the .* positions of this model"),
}


@pytest.mark.parametrize("name", BAD)
def test_invalid_input_is_rejected_by_name(name, both):
    options, message = BAD[name]
    options = {"ids": IDS, **options}
    before = num_compiled()
    with pytest.raises(ValueError, match=message):
        generate(both, options.pop("ids"), **options)
    assert num_compiled() == before


BAD_GLOBALS = {
    "value": ({"global_attention_mask": flags(4, (0,), (1,), ()) * 2}, "global_attention_mask holds 0 and 1 .*got 2"),
    "rows": ({"global_attention_mask": flags(4, (0,))}, "global_attention_mask has the shape of input_ids"),
    "length": ({"global_attention_mask": flags(5, (0,), (1,), ())}, "global_attention_mask has the shape of input_ids"),
    "rank": ({"global_attention_mask": flags(4, (0,))[0]}, "global_attention_mask has the shape of input_ids"),
    "too many": (
        {"global_attention_mask": flags(4, (0, 1, 3), (), ()), "max_global_tokens": 2},
        "an example has 3 global tokens, and max_global_tokens=2; raise it",
    ),
}


@pytest.mark.parametrize("name", BAD_GLOBALS)
def test_invalid_global_masks_are_rejected_by_name(name, led):
    options, message = BAD_GLOBALS[name]
    with pytest.raises(ValueError, match=message):
        generate(led, IDS, **options)


def test_bart_has_no_global_tokens(bart):
    with pytest.raises(ValueError, match="no option 'global_attention_mask'"):
        generate(bart, IDS, global_attention_mask=flags(4, (0,), (1,), ()))
