"""Every option of transformers' `generate` and GenerationConfig works here, or is rejected with a replacement."""

import inspect

import numpy as np
import pytest
import transformers
from support.diverse_models import generate, random_ids

import jaxmodels as jm
from jaxmodels.generation import merging, options
from jaxmodels.generation.loop import num_compiled

IDS = random_ids(2, 4)
SUPPORTED = {*inspect.signature(jm.generate).parameters, *options.NAMES}
NAMED = (
    merging.OTHER_LIBRARIES.keys()
    | merging.UNSUPPORTED_METHODS.keys()
    | merging.NEWER_UNSUPPORTED_METHODS.keys()
    | merging.METADATA
)
# Options of 4.37 that the installed version no longer has.
OLDER = {"num_assistant_tokens", "num_assistant_tokens_schedule", "max_matching_ngram_size", "generation_kwargs"}


def reference_options() -> set[str]:
    generates = (transformers.GenerationMixin.generate, transformers.FlaxGenerationMixin.generate)
    names = {name for function in generates for name in inspect.signature(function).parameters}
    models = (transformers.GPT2LMHeadModel, transformers.BartForConditionalGeneration, transformers.FlaxGPT2LMHeadModel)
    for model in models:
        names |= inspect.signature(model.forward if hasattr(model, "forward") else model.__call__).parameters.keys()
    return (names | transformers.GenerationConfig().to_dict().keys() | OLDER) - {"self", "args", "kwargs"}


@pytest.mark.parity("N14")
def test_every_name_of_the_reference_is_known():
    assert len(reference_options()) > 90
    assert reference_options() <= SUPPORTED | NAMED
    assert not SUPPORTED & NAMED


@pytest.mark.parametrize("name", sorted(merging.OTHER_LIBRARIES))
@pytest.mark.parity("N14")
def test_options_of_other_libraries_are_rejected_with_a_replacement(name, fresh_gpt2):
    replacement, neutral = merging.OTHER_LIBRARIES[name]
    if name in ("negative_prompt_ids", "negative_prompt_attention_mask"):  # this model takes them
        return
    before = num_compiled()
    with pytest.raises(ValueError) as error:
        jm.generate(*fresh_gpt2, IDS, **{name: "anything"})
    assert str(error.value) == f"generate has no option {name!r} (got 'anything'): {replacement}"
    with pytest.raises(TypeError, match=f"GenerationConfig has no option '{name}'"):
        jm.GenerationConfig(**{name: "anything"})
    assert num_compiled() == before
    for value in neutral:
        jm.GenerationConfig.merge(fresh_gpt2[0].config, None, {name: value})


@pytest.mark.parametrize("name", sorted(merging.UNSUPPORTED_METHODS | merging.NEWER_UNSUPPORTED_METHODS))
@pytest.mark.parity("N14")
def test_unsupported_methods_are_rejected(name, fresh_gpt2):
    replacement, neutral = (merging.UNSUPPORTED_METHODS | merging.NEWER_UNSUPPORTED_METHODS)[name]
    with pytest.raises(NotImplementedError, match=f"{replacement} .* is not implemented; leave {name} out"):
        jm.generate(*fresh_gpt2, IDS, **{name: "anything"})
    for value in neutral:
        jm.GenerationConfig.merge(fresh_gpt2[0].config, None, {name: value})


@pytest.mark.parametrize("name", ["decoder_input_ids", "encoder_outputs", "global_attention_mask", "doc_scores"])
def test_inputs_of_other_models_are_rejected(name, fresh_gpt2):
    with pytest.raises(ValueError, match=rf"no option '{name}' \(got an array \(2, 4\)\): it is only for "):
        jm.generate(*fresh_gpt2, IDS, **{name: IDS})


def test_negative_prompts_are_only_for_decoder_only_models(bart):
    with pytest.raises(ValueError, match="negative_prompt_ids.* decoder-only models"):
        generate(bart, IDS, negative_prompt_ids=IDS)


def test_one_is_not_accepted_as_true():
    with pytest.raises(TypeError, match="use_cache"):
        jm.GenerationConfig(use_cache=1)
    assert jm.GenerationConfig(use_cache=np.True_) == jm.GenerationConfig()
