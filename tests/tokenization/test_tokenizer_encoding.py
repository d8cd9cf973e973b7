"""BatchEncoding: fields, and the mapping from tokens to characters and words (docs/parity.md, T3)."""

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
    actual = jt.load_tokenizer(small_folder, **options)
    reference = transformers.GPT2TokenizerFast.from_pretrained(small_folder, **options)
    return [tokenizer(TEXTS, PAIRS, padding=True) for tokenizer in (actual, reference)]


@pytest.mark.parity("T3")
def test_mapping_to_the_text_equals_the_reference(both):
    actual, reference = both
    length = actual.input_ids.shape[1]
    assert actual.n_sequences == reference.n_sequences == 2
    for batch_index in range(2):
        assert actual.tokens(batch_index) == reference.tokens(batch_index)
        assert actual.word_ids(batch_index) == reference.word_ids(batch_index)
        assert actual.sequence_ids(batch_index) == reference.sequence_ids(batch_index)
        for token in range(length):
            assert actual.token_to_chars(batch_index, token) == reference.token_to_chars(batch_index, token)
            assert actual.token_to_word(batch_index, token) == reference.token_to_word(batch_index, token)
            assert actual.token_to_sequence(batch_index, token) == reference.token_to_sequence(batch_index, token)
        for sequence, texts in enumerate((TEXTS, PAIRS)):
            for char in range(len(texts[batch_index])):
                assert actual.char_to_token(batch_index, char, sequence) == reference.char_to_token(
                    batch_index, char, sequence
                )
                word = actual.char_to_word(batch_index, char, sequence)
                assert word == reference.char_to_word(batch_index, char, sequence)
                assert actual.word_to_chars(batch_index, word, sequence) == reference.word_to_chars(
                    batch_index, word, sequence
                )
                assert actual.word_to_tokens(batch_index, word, sequence) == reference.word_to_tokens(
                    batch_index, word, sequence
                )


@pytest.mark.parity("T3")
def test_single_index_means_sequence_0(both):
    actual, _ = both
    assert actual.char_to_token(3) == actual.char_to_token(0, 3)
    assert actual.token_to_chars(2) == actual.token_to_chars(0, 2)
    assert actual.token_to_chars(2).end == actual.token_to_chars(2)[1]
    assert actual.word_to_tokens(1).start == actual.word_to_tokens(0, 1)[0]
    assert actual.word_to_tokens(99) is None


@pytest.mark.parity("T3")
def test_fields_by_name_and_attribute(both):
    actual, _ = both
    assert actual.input_ids is actual["input_ids"]
    assert dict(**actual).keys() == {"input_ids", "attention_mask"}
    assert actual[1].ids == actual.input_ids[1].tolist()
    np.testing.assert_array_equal(actual[0:1]["input_ids"], actual.input_ids[:1])
    with pytest.raises(AttributeError, match="no field or attribute 'labels'"):
        _ = actual.labels
    with pytest.raises(KeyError):
        _ = actual["labels"]
    actual["labels"] = actual.input_ids
    assert actual.labels is actual.input_ids


def test_a_batch_encoding_is_a_pytree(both):
    actual, _ = both
    out = jax.jit(lambda batch: batch.input_ids * batch["attention_mask"])(actual)
    np.testing.assert_array_equal(out, actual.input_ids * actual.attention_mask)
    on_device = jax.device_put(actual)
    assert isinstance(on_device, jt.BatchEncoding) and isinstance(on_device.input_ids, jax.Array)
    with pytest.raises(ValueError, match="no mapping to the text"):
        on_device.tokens()
    assert on_device.n_sequences is None
    swapped = jt.BatchEncoding({name: actual[name] for name in reversed(list(actual))})
    assert jax.tree.structure(swapped) == jax.tree.structure(actual)


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_copies_are_complete(both, small, again):
    actual, _ = both
    twin = again(actual)
    np.testing.assert_array_equal(twin.input_ids, actual.input_ids)
    assert twin.tokens(1) == actual.tokens(1)
    small.add_special_tokens({"pad_token": "[PAD]"})
    small.padding_side = "left"
    twin = again(small)
    assert twin(["a", "b c"], padding=True).input_ids.tolist() == small(["a", "b c"], padding=True).input_ids.tolist()
    assert twin.special_tokens_map == small.special_tokens_map
