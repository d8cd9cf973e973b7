"""What a call returns, and the way back from tokens to characters and words (docs/parity.md, T3)."""

import copy
import pickle

import jax
import numpy as np
import pytest
import transformers

import jaxmodels.tokenization as jt

TEXTS = ["Hello  naïve world 🙂!", "don't <|endoftext|>stop"]
PAIRS = ["of course", "x y"]


@pytest.fixture
def both(small_folder):
    options = {"pad_token": "<|endoftext|>"}
    ours = jt.load_tokenizer(small_folder, **options)
    reference = transformers.GPT2TokenizerFast.from_pretrained(small_folder, **options)
    return [tokenizer(TEXTS, PAIRS, padding=True) for tokenizer in (ours, reference)]


@pytest.mark.parity("T3")
def test_the_way_back_equals_the_reference(both):
    ours, reference = both
    length = ours.input_ids.shape[1]
    assert ours.n_sequences == reference.n_sequences == 2
    for row in range(2):
        assert ours.tokens(row) == reference.tokens(row)
        assert ours.word_ids(row) == reference.word_ids(row)
        assert ours.sequence_ids(row) == reference.sequence_ids(row)
        for token in range(length):
            assert ours.token_to_chars(row, token) == reference.token_to_chars(row, token)
            assert ours.token_to_word(row, token) == reference.token_to_word(row, token)
            assert ours.token_to_sequence(row, token) == reference.token_to_sequence(row, token)
        for sequence, texts in enumerate((TEXTS, PAIRS)):
            for char in range(len(texts[row])):
                assert ours.char_to_token(row, char, sequence) == reference.char_to_token(row, char, sequence)
                word = ours.char_to_word(row, char, sequence)
                assert word == reference.char_to_word(row, char, sequence)
                assert ours.word_to_chars(row, word, sequence) == reference.word_to_chars(row, word, sequence)
                assert ours.word_to_tokens(row, word, sequence) == reference.word_to_tokens(row, word, sequence)


@pytest.mark.parity("T3")
def test_one_index_means_row_0(both):
    ours, _ = both
    assert ours.char_to_token(3) == ours.char_to_token(0, 3)
    assert ours.token_to_chars(2) == ours.token_to_chars(0, 2)
    assert ours.token_to_chars(2).end == ours.token_to_chars(2)[1]
    assert ours.word_to_tokens(1).start == ours.word_to_tokens(0, 1)[0]
    assert ours.word_to_tokens(99) is None


@pytest.mark.parity("T3")
def test_fields_by_name_and_attribute(both):
    ours, _ = both
    assert ours.input_ids is ours["input_ids"]
    assert dict(**ours).keys() == {"input_ids", "attention_mask"}
    assert ours[1].ids == ours.input_ids[1].tolist()
    np.testing.assert_array_equal(ours[0:1]["input_ids"], ours.input_ids[:1])
    with pytest.raises(AttributeError, match="no field or attribute 'labels'"):
        _ = ours.labels
    with pytest.raises(KeyError):
        _ = ours["labels"]
    ours["labels"] = ours.input_ids
    assert ours.labels is ours.input_ids


def test_a_batch_encoding_is_a_pytree(both):
    ours, _ = both
    out = jax.jit(lambda batch: batch.input_ids * batch["attention_mask"])(ours)
    np.testing.assert_array_equal(out, ours.input_ids * ours.attention_mask)
    on_device = jax.device_put(ours)
    assert isinstance(on_device, jt.BatchEncoding) and isinstance(on_device.input_ids, jax.Array)
    with pytest.raises(ValueError, match="no way back"):
        on_device.tokens()
    assert on_device.n_sequences is None
    swapped = jt.BatchEncoding({name: ours[name] for name in reversed(list(ours))})
    assert jax.tree.structure(swapped) == jax.tree.structure(ours)


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_copies_keep_everything(both, small, again):
    ours, _ = both
    twin = again(ours)
    np.testing.assert_array_equal(twin.input_ids, ours.input_ids)
    assert twin.tokens(1) == ours.tokens(1)
    small.add_special_tokens({"pad_token": "[PAD]"})
    small.padding_side = "left"
    twin = again(small)
    assert twin(["a", "b c"], padding=True).input_ids.tolist() == small(["a", "b c"], padding=True).input_ids.tolist()
    assert twin.special_tokens_map == small.special_tokens_map
