"""From texts to batches: tokenizer, packing, order of the data, and that every token is predicted once."""

import itertools
import json

import numpy as np
import pytest

import jaxmodels as jm
from experiments.data import batches, bpe, packing
from experiments.data.corpus import Document, held_out

TEXTS = [f"def f{i}(x):\n    return x * {i}  # für {i} <|endoftext|> \U0001f40d\r\n" * 3 for i in range(40)]
DOCUMENTS = [Document(f"m{i}", text) for i, text in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    bpe.save(bpe.train(TEXTS, 320), folder / "tokenizer", 32)
    return folder


@pytest.fixture(scope="module")
def encoder(folder):
    return jm.load_tokenizer(folder / "tokenizer", split_special_tokens=True, model_max_length=None)


@pytest.fixture(scope="module")
def packed(folder, encoder):
    packing.pack(DOCUMENTS, encoder, folder / "data", 0.3)
    return packing.unpack(folder / "data")


def test_tokenizer_files_are_deterministic(folder, tmp_path):
    bpe.save(bpe.train(TEXTS, 320), tmp_path / "again", 32)
    for name in ("vocab.json", "merges.txt", "tokenizer.json"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / "tokenizer" / name).read_bytes()


def test_tokenizer_is_lossless_and_has_an_eos_token(folder):
    tokenizer = jm.load_tokenizer(folder / "tokenizer")
    assert isinstance(tokenizer, jm.GPT2Tokenizer)
    assert (len(tokenizer), tokenizer.eos_token, tokenizer.model_max_length) == (320, bpe.END, 32)
    text = " x  (  ) ,\t. don 't é \U0001f40d\r\n"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    widths = bpe.token_bytes(tokenizer)
    assert widths[tokenizer.encode(text)].sum() == len(text.encode())
    assert widths[tokenizer.eos_token_id] == 0


def test_too_small_vocabulary_is_rejected():
    with pytest.raises(ValueError, match="at least 257"):
        bpe.train(TEXTS, 256)


def test_packing_keeps_every_document_in_its_split(folder, encoder, packed):
    sides = {True: [], False: []}
    for document in DOCUMENTS:
        ids = [encoder.eos_token_id, *encoder.encode(document.text)]
        sides[held_out(document.group, 0.3)].append((document, ids))
    for split, side in zip(packed, (sides[False], sides[True]), strict=True):
        assert split.tokens.tolist() == list(itertools.chain(*(ids for _, ids in side)))
        assert split.bytes == sum(len(document.text.encode()) for document, _ in side)
        assert split.documents == len(side)
        assert split.tokens.dtype == np.uint16
    held = "".join(document.text for document, _ in sides[True]).encode()
    assert packing.validation_text(folder / "data") == held
    assert bpe.END.encode() in held, "what looks like a special token in a text is text"


def test_interrupted_packing_leaves_no_data(folder, encoder, tmp_path):
    def killed():
        yield from DOCUMENTS[:10]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        packing.pack(killed(), encoder, tmp_path / "data", 0.3)
    assert not packing.is_packed(tmp_path / "data")
    packing.pack(DOCUMENTS, encoder, tmp_path / "data", 0.3)
    for name in ("train.bin", "validation.bin", "validation.txt", "counts.json"):
        assert (tmp_path / "data" / name).read_bytes() == (folder / "data" / name).read_bytes()


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_empty_split_is_rejected(encoder, tmp_path, fraction):
    with pytest.raises(ValueError, match="leaves no documents for"):
        packing.pack(DOCUMENTS, encoder, tmp_path / "data", fraction)


def take(iterator, n):
    return [batch["input_ids"] for batch in itertools.islice(iterator, n)]


def test_an_epoch_predicts_every_token_once_in_a_shuffled_order():
    tokens = np.arange(1 + 12 * 7, dtype=np.uint16)
    data = batches.training(tokens, length=8, batch_size=3, seed=0)
    epoch = np.concatenate(take(data, 4))
    assert sorted(epoch[:, 1:].ravel()) == list(range(1, 85))
    again = np.concatenate(take(data, 4))
    assert sorted(again[:, 1:].ravel()) == list(range(1, 85))
    assert not np.array_equal(epoch, again), "the second epoch has another order"
    assert not np.array_equal(epoch, np.sort(epoch, axis=0))


def test_order_is_a_function_of_the_seed(packed):
    def first(seed):
        return np.stack(take(batches.training(packed[0].tokens, length=16, batch_size=4, seed=seed), 20))

    np.testing.assert_array_equal(first(1), first(1))
    assert not np.array_equal(first(1), first(2))


@pytest.mark.parametrize("position", [0, 1, 7, 30])
def test_restored_iterator_continues_at_the_saved_position(packed, position):
    choices = {"length": 16, "batch_size": 4, "seed": 3}
    data = batches.training(packed[0].tokens, **choices)
    take(data, position)
    state = data.get_state()
    expected = take(data, 10)
    restored = batches.training(packed[0].tokens, **choices)
    restored.set_state(state)
    np.testing.assert_array_equal(take(restored, 10), expected)


def test_processes_load_rows_of_the_batches_of_one_process(packed):
    """Processes may share rows, and all have the same state."""
    choices = {"length": 16, "batch_size": 4, "seed": 3}
    whole = batches.training(packed[0].tokens, **choices)
    expected = take(whole, 5)
    state = whole.get_state()
    for rows in (np.array([0, 1, 3]), np.array([2, 3])):
        own = batches.training(packed[0].tokens, **choices, rows=rows)
        np.testing.assert_array_equal(take(own, 5), [batch[rows] for batch in expected])
        assert own.get_state() == state == json.loads(json.dumps(state))


def test_too_little_text_is_rejected():
    with pytest.raises(ValueError, match="10 tokens do not fill one window of 16"):
        batches.training(np.zeros(10, np.uint16), length=16, batch_size=2, seed=0)


@pytest.mark.parametrize("count", [2, 8, 9, 15, 16, 100])
def test_validation_scores_every_token_but_the_first_once(count):
    tokens = np.arange(count, dtype=np.uint16)
    scored = []
    for batch in batches.validation(tokens, length=8, batch_size=3):
        assert batch["input_ids"].shape == batch["labels"].shape == (3, 8)
        scored += batch["labels"][:, 1:].ravel().tolist()
    assert sorted(label for label in scored if label != batches.IGNORE) == list(range(1, count))


def test_limited_validation_is_evenly_spaced():
    tokens = np.arange(1 + 100 * 7, dtype=np.uint16)
    firsts = np.concatenate(
        [b["input_ids"][:, 0] for b in batches.validation(tokens, length=8, batch_size=2, limit=10)]
    )
    assert len(firsts) == 10 and firsts[0] == 0 and firsts[-1] == 99 * 7 and (np.diff(firsts) > 60).all()


def test_processes_load_rows_of_the_validation_batches(packed):
    choices = {"length": 8, "batch_size": 4}
    whole = list(batches.validation(packed[1].tokens, **choices))
    rows = np.array([0, 2, 3])
    for batch, own in zip(whole, batches.validation(packed[1].tokens, **choices, rows=rows), strict=True):
        for name in batch:
            np.testing.assert_array_equal(batch[name][rows], own[name])
