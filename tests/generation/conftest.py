"""Pairs of tiny models that say something; files that want others have their own."""

import pytest
from support.lively import lively


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory):
    return lively("GPT2LMHeadModel", tmp_path_factory.mktemp("gpt2"), seed=1)


@pytest.fixture(scope="session")
def bart(tmp_path_factory):
    return lively("BartForConditionalGeneration", tmp_path_factory.mktemp("bart"), seed=3)


@pytest.fixture(scope="session")
def led(tmp_path_factory):
    return lively("LEDForConditionalGeneration", tmp_path_factory.mktemp("led"))


@pytest.fixture(scope="session")
def t5(tmp_path_factory):
    return lively("T5ForConditionalGeneration", tmp_path_factory.mktemp("t5"), seed=1)


@pytest.fixture(params=["bart", "led"])
def both(request):
    return request.getfixturevalue(request.param)
