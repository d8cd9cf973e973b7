"""Masking and length buckets: masked tokens, batches, and resumed iterators."""

import itertools

import numpy as np
import pytest

import jaxmodels as jm
from experiments.data import bpe, buckets
from experiments.data.batches import IGNORE
from experiments.data.buckets import LabelledTexts
from experiments.data.masking import MaskedWindows

TEXTS = [f"the quick brown fox {i} jumps over the lazy dog {i * 7}" for i in range(50)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer") / "tokenizer"
    bpe.save(bpe.train(TEXTS, 300, bpe.ROBERTA), folder, 32, bpe.ROBERTA)
    return jm.load_tokenizer(folder)


@pytest.fixture(scope="module")
def tokens(tokenizer):
    return np.random.default_rng(0).integers(5, 300, 20_000).astype(np.uint16)


def windows(tokens, tokenizer, **changes):
    return MaskedWindows(tokens, tokenizer, **{"length": 32, "rate": 0.4, "seed": 0, "rest": False} | changes)


def test_trained_tokenizer_is_a_roberta_tokenizer(tokenizer):
    assert isinstance(tokenizer, jm.RobertaTokenizer) and len(tokenizer) == 300
    assert tokenizer.convert_tokens_to_ids(["<s>", "<pad>", "</s>", "<unk>", "<mask>"]) == [0, 1, 2, 3, 4]
    assert tokenizer.decode(tokenizer.encode(TEXTS[3]), skip_special_tokens=True) == TEXTS[3]
    assert set(bpe.token_bytes(tokenizer)[:5]) == {0}
    with pytest.raises(ValueError, match="at least 261"):
        bpe.train(TEXTS, 260, bpe.ROBERTA)


@pytest.mark.parametrize("rate", [0.15, 0.4])
def test_shares_of_masked_replaced_and_unchanged_tokens(tokens, tokenizer, rate):
    """Devlin et al. 2018, section 3.1: 80% masked, 10% replaced, 10% unchanged."""
    source = windows(tokens, tokenizer, rate=rate)
    batch = source.batch(np.arange(len(source.lengths)), 32)
    ids, labels = batch["input_ids"], batch["labels"]
    chosen = labels != IGNORE
    text = len(source.lengths) * 30
    assert chosen.sum() / text == pytest.approx(rate, abs=0.01)
    masked = (ids == tokenizer.mask_token_id)[chosen].mean()
    left = (ids == labels)[chosen].mean()
    assert masked == pytest.approx(0.8, abs=0.03) and left == pytest.approx(0.1, abs=0.03)
    counts = chosen.sum(axis=1)
    assert set(counts) <= {int(rate * 30), int(rate * 30) + 1}, "the same share of every window"


def test_other_tokens_are_unchanged(tokens, tokenizer):
    source = windows(tokens, tokenizer)
    batch = source.batch(np.arange(10), 32)
    whole = np.where(batch["labels"] == IGNORE, batch["input_ids"], batch["labels"])
    assert (whole[:, 0] == 0).all() and (whole[:, -1] == 2).all(), "<s> text </s>"
    np.testing.assert_array_equal(whole[:, 1:-1].ravel(), tokens[:300])


def test_special_tokens_are_never_masked_or_inserted(tokenizer):
    mixed = np.tile([2, 3, 4, 0, 1, 7], 500)
    source = windows(mixed, tokenizer, rate=0.9)
    batch = source.batch(np.arange(len(source.lengths)), 32)
    assert set(batch["labels"].ravel()) == {IGNORE, 7}
    put = batch["input_ids"][(batch["labels"] == 7) & (batch["input_ids"] != 4)]
    assert (put >= 5).all() and len(set(put)) > 30


def test_masks_change_with_epoch_seed_and_window_only(tokens, tokenizer):
    source = windows(tokens, tokenizer)
    first = source.batch(np.array([5, 6]), 32, epoch=1)["labels"]
    again = windows(tokens, tokenizer).batch(np.array([6, 5]), 32, epoch=1)["labels"][::-1]
    np.testing.assert_array_equal(first, again)
    same = np.tile(tokens[:30], 3)
    for other in (
        windows(same, tokenizer).batch(np.array([1]), 32, epoch=0),
        windows(same, tokenizer).batch(np.array([0]), 32, epoch=1),
        windows(same, tokenizer, seed=1).batch(np.array([0]), 32, epoch=0),
    ):
        assert not np.array_equal(other["labels"], windows(same, tokenizer).batch(np.array([0]), 32)["labels"])


def test_last_window_is_padded_or_dropped(tokens, tokenizer):
    whole, rest = (windows(tokens[:70], tokenizer, rest=rest).lengths for rest in (False, True))
    assert whole.tolist() == [32, 32] and rest.tolist() == [32, 32, 12]
    batch = windows(tokens[:70], tokenizer, rest=True).batch(np.array([2]), 32)
    assert batch["attention_mask"].sum() == 12 and (batch["input_ids"][0, 12:] == 1).all()
    assert (batch["labels"][0, 12:] == IGNORE).all()


def test_invalid_masking_is_rejected(tokens, tokenizer):
    for rate in (0.0, 1.0, 40):
        with pytest.raises(ValueError, match=r"masking\.rate is between 0 and 1"):
            windows(tokens, tokenizer, rate=rate)
    with pytest.raises(ValueError, match="10 tokens do not fill one window of 32"):
        windows(tokens[:10], tokenizer)


LENGTHS = np.random.default_rng(0).integers(2, 33, 101)


@pytest.fixture(scope="module")
def texts():
    return LabelledTexts({"input_ids": [[i + 2] * n for i, n in enumerate(LENGTHS)], "labels": list(range(101))}, pad=1)


def take(examples, count, start=None, **changes):
    choices = {"steps": 100, "batch_size": 4, "buckets": (8, 16, 32), "seed": 0} | changes
    data = buckets.training(examples, **choices)
    if start is not None:
        data.set_state(start)
    return data, list(itertools.islice(data, count))


def test_epoch_has_every_example_once_except_for_the_remainder(texts):
    _, batches = take(texts, 50)
    assert [len(batch["labels"]) for batch in batches] == [4] * 50
    for epoch in (batches[:25], batches[25:]):
        labels = np.concatenate([batch["labels"] for batch in epoch])
        assert len(set(labels)) == 100, "101 examples, 25 batches of 4"
    assert [b["labels"].tolist() for b in batches[:25]] != [b["labels"].tolist() for b in batches[25:]]


def test_batches_have_few_shapes_and_little_padding(texts):
    _, batches = take(texts, 25)
    shapes = {batch["input_ids"].shape for batch in batches}
    assert shapes <= {(4, 8), (4, 16), (4, 32)} and len(shapes) > 1
    for batch in batches:
        real = batch["attention_mask"].sum(axis=1)
        np.testing.assert_array_equal(real, LENGTHS[batch["labels"]])
        assert ((batch["input_ids"] == 1) == (batch["attention_mask"] == 0)).all()
    area = sum(batch["input_ids"].size for batch in batches)
    assert area < 0.75 * 25 * 4 * 32
    order = [batch["input_ids"].shape[1] for batch in batches]
    assert order != sorted(order), "the buckets are mixed"


@pytest.mark.parametrize("position", [0, 1, 24, 25, 40])
def test_resumed_run_has_the_same_batches(texts, position):
    data, _ = take(texts, position)
    state = data.get_state()
    expected = list(itertools.islice(data, 10))
    _, found = take(texts, 10, start=state)
    for one, other in zip(found, expected, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_processes_load_rows_of_the_batch(texts):
    _, whole = take(texts, 30)
    for rows in (np.array([0, 3]), np.array([1, 2, 3])):
        for batch, own in zip(whole, take(texts, 30, rows=rows)[1], strict=True):
            for name in batch:
                np.testing.assert_array_equal(batch[name][rows], own[name])


def test_evaluation_has_every_example_once(texts):
    seen = []
    for indices, batch in buckets.evaluation(texts, batch_size=4, buckets=(8, 16, 32)):
        np.testing.assert_array_equal(batch["labels"][: len(indices)], indices)
        assert (batch["labels"][len(indices) :] == IGNORE).all() and batch["labels"].shape == (4,)
        assert batch["input_ids"].shape[1] in (8, 16, 32)
        seen += indices.tolist()
    assert sorted(seen) == list(range(101))
    whole = list(buckets.evaluation(texts, batch_size=4, buckets=(32,)))
    rows = np.array([0, 2, 3])
    for (_, batch), (_, own) in zip(
        whole, buckets.evaluation(texts, batch_size=4, buckets=(32,), rows=rows), strict=True
    ):
        np.testing.assert_array_equal(batch["labels"][rows], own["labels"])


def test_invalid_buckets_are_rejected(texts):
    for wrong in ((), (16, 8), (8, 8)):
        with pytest.raises(ValueError, match=r"data\.buckets are lengths in tokens"):
            take(texts, 1, buckets=wrong)
    with pytest.raises(ValueError, match=r"an example has 32 tokens, but the last of data\.buckets is 31"):
        take(texts, 1, buckets=(8, 31))
    with pytest.raises(ValueError, match="batch_size=102 is more than the number of examples, 101"):
        take(texts, 1, batch_size=102)
