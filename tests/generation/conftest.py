"""Pairs of tiny models with varied output; files that need other models define their own."""

import jax
import pytest

import jaxmodels as jm


def diverse_model(*args, **options):
    from support import diverse_models  # needs torch, which `make test-versions` does without

    return diverse_models.diverse_model(*args, **options)


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory):
    return diverse_model("GPT2LMHeadModel", tmp_path_factory.mktemp("gpt2"), seed=1)


@pytest.fixture(scope="session")
def fresh_gpt2():
    """A model without a reference, with newly initialised parameters."""
    sizes = {"vocab_size": 61, "n_positions": 128, "n_embd": 16, "n_layer": 2, "n_head": 2}
    model = jm.GPT2LMHeadModel(jm.GPT2Config(**sizes, eos_token_id=3, pad_token_id=0))
    return model, jm.init(model, jax.random.key(0))


@pytest.fixture(scope="session")
def bart(tmp_path_factory):
    return diverse_model("BartForConditionalGeneration", tmp_path_factory.mktemp("bart"), seed=3)


@pytest.fixture(scope="session")
def led(tmp_path_factory):
    return diverse_model("LEDForConditionalGeneration", tmp_path_factory.mktemp("led"))


@pytest.fixture(scope="session")
def t5(tmp_path_factory):
    return diverse_model("T5ForConditionalGeneration", tmp_path_factory.mktemp("t5"), seed=1)


@pytest.fixture(params=["bart", "led"])
def both(request):
    return request.getfixturevalue(request.param)
