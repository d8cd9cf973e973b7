"""Pretraining of encoder-decoders: the noise has the published rates, and the text can be recovered."""

import re
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.finetuned import finish, refused, write_lines
from support.finetuned import settings as run_settings
from support.tiny_checkpoints import WORDS, save_checkpoint

import jaxmodels as jm
from experiments.data.batches import IGNORE
from experiments.data.denoising import Denoising, SpanCorruption
from experiments.report import THIS_MODEL
from experiments.tasks.denoising import SpanCorruptionTask
from experiments.tasks.run import UNTRAINED

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("checkpoints") / "t5", "T5ForConditionalGeneration")


@pytest.fixture(scope="module")
def bart(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("checkpoints") / "bart", "BartForConditionalGeneration")


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    random = np.random.default_rng(0)
    rows = [{"text": " ".join(random.choice(WORDS[:4], 6)) + ". a fine film."} for _ in range(60)]
    return write_lines(tmp_path_factory.mktemp("data") / "texts.jsonl", rows)


def restored(inputs, targets, sentinels):
    """The text: each sentinel of the inputs replaced by what follows it in the targets."""
    spans = {}
    for token in targets[:-1]:
        if token in sentinels:
            spans[token] = []
            last = token
        else:
            spans[last].append(token)
    return [token for each in inputs[:-1] for token in spans.pop(each, [each])]


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 300), st.integers(0, 2**32 - 1))
def test_spans_are_recoverable_and_as_many_as_published(corruption, length, seed):
    ids = np.arange(length) + 1000
    inputs, targets = corruption(ids, np.random.default_rng(seed))
    noise, spans = corruption.counts(length)
    assert noise == max(round(0.15 * length), 1) and spans == max(round(noise / 3), 1)
    sentinels = corruption.sentinels[:spans].tolist()
    assert [token for token in inputs if token in sentinels] == sentinels, "in order, each once"
    assert [token for token in targets if token in sentinels] == sentinels
    assert restored(inputs.tolist(), targets.tolist(), set(sentinels)) == ids.tolist()
    assert inputs[0] == ids[0] and inputs[-1] == targets[-1] == 1
    assert (len(inputs), len(targets)) == (corruption.input_length(length), corruption.target_length(length))


@pytest.fixture(scope="module")
def corruption(tmp_path_factory, t5):
    tokenizer = jm.T5Tokenizer(tokenizer_file=t5 / "tokenizer.json", extra_ids=100)
    return SpanCorruption(tokenizer, 0.15, 3.0)


def test_windows_fill_the_inputs(corruption):
    """The lengths of T5: 512 input tokens are 568 of text, with 114 target tokens."""
    assert corruption.text_length(512) == 568 and corruption.target_length(568) == 114
    with pytest.raises(ValueError, match="max_tokens=4096 needs .* sentinels, but the tokenizer has 100"):
        corruption.text_length(4096)


def test_texts_are_infilled_at_the_published_rate(bart):
    tokenizer = jm.load_tokenizer(bart)
    noise, ids = Denoising(tokenizer, 0.3, 3.0, permute=False), np.arange(200) + 1000
    kept, masks = [], []
    for seed in range(200):
        inputs, targets = noise(ids, np.random.default_rng(seed))
        assert targets[1:-1].tolist() == ids.tolist() and len(inputs) <= len(targets)
        rest = inputs[1:-1][inputs[1:-1] != noise.mask]
        assert (np.diff(rest) > 0).all(), "in order"
        kept.append(len(rest))
        masks.append(len(inputs) - 2 - len(rest))
    assert set(kept) == {140}
    # 60 tokens in spans of a mean length of 3, of which the last one is cut.
    assert 20 < np.mean(masks) < 22


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 30), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.3, 0.99]))
def test_noise_never_lengthens_a_text(noise, length, seed, rate):
    ids = np.arange(length) + 1000
    inputs = Denoising(noise, rate, 1.0, permute=True)(ids, np.random.default_rng(seed))[0]
    assert len(inputs) <= length + 2
    assert (noise.mask_token_id in inputs) == (rate > 0)


@pytest.fixture(scope="module")
def noise(bart):
    return jm.load_tokenizer(bart)


def test_sentences_change_their_order_only(noise):
    text = "the film was good. a dull film. we saw it."
    ids = np.array(noise(text, add_special_tokens=False)["input_ids"])
    permute = Denoising(noise, 0.3, 3.0, permute=True).permute
    found = {noise.decode(permute(ids, np.random.default_rng(seed))) for seed in range(60)}
    sentences = re.findall(r"[^.]+\.", text)
    assert found == {"".join(order) for order in permutations(sentences)}


@pytest.mark.parametrize(
    ("task", "options"),
    [("span_corruption", {}), pytest.param("denoising", {"mask_rate": 0.2}, marks=pytest.mark.slow)],
)
def test_models_learn_from_scratch(request, texts, tmp_path, task, options):
    init = request.getfixturevalue("t5" if task == "span_corruption" else "bart")
    options |= {"from_scratch": True, "epochs": 8.0}
    result, model, *_ = finish(task, init, texts, tmp_path, **options)
    ours = result["scores"][THIS_MODEL]
    assert UNTRAINED not in result["scores"]
    assert ours["loss"] < 0.8 * np.log(model.config.vocab_size) and ours["accuracy"] > 0.1


def test_noise_differs_between_epochs_and_not_between_runs(t5, texts, tmp_path):
    config = run_settings("span_corruption", t5, texts, mean_span=1.0)
    first, second = (SpanCorruptionTask(config, tmp_path).train for _ in "ab")
    a, b, c = first.batch(np.arange(4), 24, 0), second.batch(np.arange(4), 24, 0), first.batch(np.arange(4), 24, 1)
    assert all(np.array_equal(a[name], b[name]) for name in a) and not np.array_equal(a["input_ids"], c["input_ids"])
    assert (a["labels"] != IGNORE).all() and a["attention_mask"].all(), "full windows"


def test_tokenizers_without_sentinels_or_mask_are_refused(t5, bart, texts, tmp_path):
    assert "needs sentinels" in refused("span_corruption", bart, texts, tmp_path)
    assert "expected a tokenizer with a" in refused("denoising", t5, texts, tmp_path)
