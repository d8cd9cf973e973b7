"""Every option of transformers' `generate` and GenerationConfig works here, or is refused with what to write."""

import inspect

import numpy as np
import pytest
import transformers
from support.lively import ours, texts

import jaxmodels as jm
from jaxmodels.generation import foreign, options, recompiles

IDS = texts(2, 4)
OURS = {*inspect.signature(jm.generate).parameters, *options.NAMES}
NAMED = foreign.FOREIGN.keys() | foreign.LATER.keys() | foreign.YOUNGER.keys() | foreign.METADATA
# Of 4.37 alone: they are not in the installed version.
OLDER = {"num_assistant_tokens", "num_assistant_tokens_schedule", "max_matching_ngram_size", "generation_kwargs"}


def theirs() -> set[str]:
    generates = (transformers.GenerationMixin.generate, transformers.FlaxGenerationMixin.generate)
    names = {name for function in generates for name in inspect.signature(function).parameters}
    models = (transformers.GPT2LMHeadModel, transformers.BartForConditionalGeneration, transformers.FlaxGPT2LMHeadModel)
    for model in models:
        names |= inspect.signature(model.forward if hasattr(model, "forward") else model.__call__).parameters.keys()
    return (names | transformers.GenerationConfig().to_dict().keys() | OLDER) - {"self", "args", "kwargs"}


@pytest.mark.parity("N14")
def test_every_name_of_the_reference_is_known():
    assert len(theirs()) > 90
    assert theirs() <= OURS | NAMED
    assert not OURS & NAMED


@pytest.mark.parametrize("name", sorted(foreign.FOREIGN))
@pytest.mark.parity("N14")
def test_an_option_of_another_library_is_refused_with_what_to_write(name, fresh_gpt2):
    words, settled = foreign.FOREIGN[name]
    if name in ("negative_prompt_ids", "negative_prompt_attention_mask"):  # this model takes them
        return
    before = recompiles.compiled()
    with pytest.raises(ValueError) as error:
        jm.generate(*fresh_gpt2, IDS, **{name: "anything"})
    assert str(error.value) == f"generate has no option {name!r} (got 'anything'): {words}"
    with pytest.raises(TypeError, match=f"GenerationConfig has no option '{name}'"):
        jm.GenerationConfig(**{name: "anything"})
    assert recompiles.compiled() == before
    for value in settled:
        jm.GenerationConfig.merge(fresh_gpt2[0].config, None, {name: value})


@pytest.mark.parametrize("name", sorted(foreign.LATER | foreign.YOUNGER))
@pytest.mark.parity("N14")
def test_a_method_that_is_not_here_is_refused(name, fresh_gpt2):
    words, settled = (foreign.LATER | foreign.YOUNGER)[name]
    with pytest.raises(NotImplementedError, match=f"{words} .* is not here yet; leave {name} out"):
        jm.generate(*fresh_gpt2, IDS, **{name: "anything"})
    for value in settled:
        jm.GenerationConfig.merge(fresh_gpt2[0].config, None, {name: value})


@pytest.mark.parametrize("name", ["decoder_input_ids", "encoder_outputs", "global_attention_mask", "doc_scores"])
def test_an_input_of_other_models_is_refused(name, fresh_gpt2):
    with pytest.raises(
        ValueError, match=rf"no option '{name}' \(got an array \(2, 4\)\): it is for .*, and this is none"
    ):
        jm.generate(*fresh_gpt2, IDS, **{name: IDS})


def test_a_negative_prompt_is_of_decoder_only_models(bart):
    with pytest.raises(ValueError, match="negative_prompt_ids.* decoder-only model, and this is none"):
        ours(bart, IDS, negative_prompt_ids=IDS)


def test_one_is_not_true():
    with pytest.raises(TypeError, match="use_cache"):
        jm.GenerationConfig(use_cache=1)
    assert jm.GenerationConfig(use_cache=np.True_) == jm.GenerationConfig()
