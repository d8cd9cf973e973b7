"""The adapter for EleutherAI's lm-eval, on a stand-in of its interface: log-likelihoods by their definition."""

import importlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import lm_eval_stand_in as stand_in
from support.tiny_checkpoints import save_checkpoint

import jaxmodels as jm

MAX_LENGTH = 8


@pytest.fixture(scope="module")
def adapter():
    """The module, imported with the stand-in."""
    with pytest.MonkeyPatch.context() as patch:
        for name, module in stand_in.modules().items():
            patch.setitem(sys.modules, name, module)
        patch.delitem(sys.modules, "jaxmodels.lm_eval", raising=False)
        yield importlib.import_module("jaxmodels.lm_eval")
    sys.modules.pop("jaxmodels.lm_eval")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("checkpoints") / "gpt2", "GPT2LMHeadModel")


@pytest.fixture(scope="module")
def lm(adapter, folder):
    return stand_in.REGISTERED["jaxmodels"](str(folder), batch_size="2", max_length=MAX_LENGTH)


@pytest.fixture(scope="module")
def by_hand(lm):
    """by_hand(ids, count) -> log-likelihood of the last tokens from those before, and whether all are the best."""

    @jax.jit
    def values(ids):
        return jax.nn.log_softmax(lm.model.apply({"params": lm.params}, ids).logits[0])

    def by_hand(ids, count):
        ids = ids[-MAX_LENGTH - 1 :]
        found = np.asarray(values(jnp.array([[*ids[:-1], *[5] * (MAX_LENGTH + 1 - len(ids))]])))
        places = range(len(ids) - 1 - count, len(ids) - 1)
        best = all(found[place].argmax() == ids[place + 1] for place in places)
        return sum(float(found[place, ids[place + 1]]) for place in places), best

    return by_hand


def asked(*arguments):
    return [stand_in.Instance(each) for each in arguments]


def test_log_likelihoods_are_those_of_the_continuations(lm, by_hand):
    """Of short, empty and too long contexts, and of a trailing space; in the order of the requests."""
    long = "Ada lives in Rome and Bob lives in Oslo and Eve lives in"
    pairs = [(long, " Lima"), ("", "it was good"), ("Ada lives in ", "Rome"), ("we", " saw it")]
    start, encode = lm.tokenizer.bos_token_id, lm.tok_encode
    # A context whose greedy continuation is known.
    ids = encode("who")
    best = int(lm.model.apply({"params": lm.params}, jnp.array([ids])).logits[0, -1].argmax())
    requests = [(("", ""), encode(a.rstrip()) or [start], encode(a + b)[len(encode(a.rstrip())) :]) for a, b in pairs]
    expected = [by_hand([*context, *text], len(text)) for _, context, text in requests]
    found = lm.loglikelihood(asked(*pairs), disable_tqdm=True)
    np.testing.assert_allclose([value for value, _ in found], [value for value, _ in expected], rtol=1e-5)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert lm.cache_hook.added[-1] == ("loglikelihood", pairs[-1], found[-1])
    assert lm._loglikelihood_tokens([(("who", ""), ids, [best])], disable_tqdm=True)[0][1]


def test_rolling_log_likelihood_predicts_each_token_once(lm, by_hand):
    text = "Ada lives in Rome and Bob lives in Oslo and Eve saw it"
    ids = [lm.tokenizer.bos_token_id, *lm.tok_encode(text)]
    assert len(ids) > 2 * MAX_LENGTH, "three windows"
    expected = by_hand(ids[: MAX_LENGTH + 1], MAX_LENGTH)[0] + by_hand(ids[: 2 * MAX_LENGTH + 1], MAX_LENGTH)[0]
    expected += by_hand(ids, len(ids) - 1 - 2 * MAX_LENGTH)[0]
    (short, found) = lm.loglikelihood_rolling(asked(("we",), (text,)), disable_tqdm=True)
    assert found == pytest.approx(expected, rel=1e-5)
    ids = [lm.tokenizer.bos_token_id, *lm.tok_encode("we")]
    assert short == pytest.approx(by_hand(ids, len(ids) - 1)[0], rel=1e-5)


def test_texts_continue_their_contexts_up_to_a_stop_string(lm):
    contexts = ["Ada lives in Rome", "we"]
    options = {"max_gen_toks": 4, "until": ["\n\n"], "do_sample": False, "temperature": 0.0}
    found = lm.generate_until(asked(*((context, options) for context in contexts)), disable_tqdm=True)
    for context, text in zip(contexts, found, strict=True):
        ids = lm.tok_encode(context)[-4:]
        out = jm.generate(lm.model, lm.params, jnp.array([ids]), max_new_tokens=4, pad_token_id=0)
        assert text == lm.tokenizer.decode(out.sequences[0, len(ids) :], skip_special_tokens=True)
    stop = found[0][len(found[0]) // 2 :]
    (cut,) = lm.generate_until(asked((contexts[0], options | {"until": stop})), disable_tqdm=True)
    assert cut == found[0].split(stop)[0] != found[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "pass either pretrained"),
        ({"pretrained": "{}", "batch_size": "auto"}, "batch_size is a whole number above 0, got 'auto'"),
        ({"pretrained": "{}", "model": 1, "params": {}}, "pass either pretrained"),
    ],
)
def test_invalid_arguments_are_rejected(adapter, folder, arguments, message):
    arguments = {key: value.format(folder) if isinstance(value, str) else value for key, value in arguments.items()}
    with pytest.raises(ValueError, match=message):
        adapter.JaxModelsLM(**arguments)


def test_missing_package_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, "jaxmodels.lm_eval", raising=False)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ImportError, match=r"pip install 'jaxmodels\[lm-eval\]'"):
        importlib.import_module("jaxmodels.lm_eval")
