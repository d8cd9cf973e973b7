"""GPT-2: ids equal transformers', fast and slow, on difficult texts, corpora and Unicode (docs/parity.md, G17, G18)."""

import random
import time

import jax.numpy as jnp
import numpy as np
import pytest
import transformers
from support.hard_texts import HARD_TEXTS

import jaxmodels.tokenization as jt


@pytest.mark.parametrize("text", HARD_TEXTS, ids=lambda text: ascii(text[:20]))
@pytest.mark.parity("G17", "T4")
def test_tokenizer_ids_equal_both_references(shared_tokenizer, fast, slow, text):
    ids = shared_tokenizer.encode(text)
    assert ids == fast.encode(text)
    assert ids == slow.encode(text)
    assert shared_tokenizer.tokenize(text) == fast.tokenize(text)


@pytest.mark.parity("G17")
def test_tokenizer_from_vocabulary_equals_tokenizer_json(shared_tokenizer, gpt2_files):
    tokenizer = jt.GPT2Tokenizer(**gpt2_files)
    expected = shared_tokenizer(HARD_TEXTS, return_offsets_mapping=True)
    actual = tokenizer(HARD_TEXTS, return_offsets_mapping=True)
    for name in ("input_ids", "offset_mapping"):
        for a, b in zip(actual[name], expected[name], strict=True):
            np.testing.assert_array_equal(a, b)
    assert len(tokenizer) == tokenizer.vocab_size == len(shared_tokenizer)
    assert tokenizer.get_vocab() == shared_tokenizer.get_vocab()


@pytest.mark.parametrize("name", ["tinyshakespeare.txt", "wikitext-2/valid.txt", "wikitext-2/test.txt"])
@pytest.mark.parity("G17")
def test_tokenizer_ids_of_corpora_equal_the_fast_reference(shared_tokenizer, fast, data_dir, name):
    text = (data_dir / "text" / name).read_text(encoding="utf-8")
    ids = shared_tokenizer.encode(text)
    assert ids == fast.backend_tokenizer.encode(text).ids
    assert shared_tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


@pytest.mark.parity("G17")
def test_tokenizer_ids_of_a_corpus_equal_the_slow_reference(shared_tokenizer, slow, data_dir):
    text = (data_dir / "text" / "wikitext-2" / "test.txt").read_text(encoding="utf-8")[:200_000]
    assert shared_tokenizer.encode(text) == slow.encode(text)


@pytest.mark.parity("G17")
def test_tokenizer_ids_of_random_unicode_equal_the_fast_reference(shared_tokenizer, fast):
    rng = random.Random(0)
    ranges = [(0, 0x80), (0x80, 0x300), (0x300, 0xD800), (0xE000, 0x10000), (0x10000, 0x110000), (0x20, 0x7F)]
    texts = ["".join(chr(rng.randrange(*rng.choice(ranges))) for _ in range(rng.randrange(60))) for _ in range(500)]
    ids = [sequence.tolist() for sequence in shared_tokenizer(texts)["input_ids"]]
    assert ids == fast(texts)["input_ids"]
    assert shared_tokenizer.batch_decode(ids, clean_up_tokenization_spaces=False) == texts


@pytest.mark.parametrize("unit", ["a", " ", "\n", "!", "ab", "é", "一", "🙂", "\u0301"])
@pytest.mark.parity("G17")
def test_tokenizer_long_runs_take_linear_time(shared_tokenizer, unit):
    start = time.perf_counter()
    ids = shared_tokenizer.encode(unit * 100_000)
    # quadratic work would be 10^10 steps
    assert time.perf_counter() - start < 5
    assert shared_tokenizer.decode(ids) == unit * 100_000


@pytest.mark.parametrize("text", ["a b", " a b", "  a", "\na", "", "a<|endoftext|>b <|endoftext|> c"])
@pytest.mark.parity("G17")
def test_tokenizer_add_prefix_space_follows_the_fast_reference(gpt2_files, text):
    reference = transformers.GPT2TokenizerFast(**gpt2_files, add_prefix_space=True)
    tokenizer = jt.GPT2Tokenizer(**gpt2_files, add_prefix_space=True)
    actual = tokenizer(text, return_offsets_mapping=True)
    expected = reference(text, return_offsets_mapping=True)
    assert actual["input_ids"].tolist() == expected["input_ids"]
    assert actual["offset_mapping"].tolist() == [list(span) for span in expected["offset_mapping"]]


@pytest.mark.parity("G17")
def test_tokenizer_add_prefix_space_overrides_tokenizer_json(data_dir):
    tokenizer = jt.load_tokenizer(data_dir / "tokenizers" / "gpt2", add_prefix_space=True)
    assert tokenizer.add_prefix_space
    assert tokenizer.tokenize("a b") == ["Ġa", "Ġb"]


@pytest.mark.parametrize(("text", "pair"), [("a b", None), ("a b", "c d"), ("", None), ("", "")])
@pytest.mark.parity("G17")
def test_tokenizer_add_bos_token_follows_the_slow_reference(gpt2_files, text, pair):
    reference = transformers.GPT2Tokenizer(**gpt2_files, add_bos_token=True)
    tokenizer = jt.GPT2Tokenizer(**gpt2_files, add_bos_token=True)
    expected = reference(text, pair, return_special_tokens_mask=True)
    actual = tokenizer(text, pair, return_special_tokens_mask=True)
    for name in ("input_ids", "attention_mask", "special_tokens_mask"):
        assert actual[name].tolist() == expected[name], name
    assert tokenizer.encode(text, add_special_tokens=False) == reference.encode(text, add_special_tokens=False)
    for is_pair in (False, True):
        assert tokenizer.num_special_tokens_to_add(is_pair) == reference.num_special_tokens_to_add(is_pair)


@pytest.mark.parity("G17")
def test_a_bos_token_has_the_type_of_the_text_behind_it(gpt2_files):
    tokenizer = jt.GPT2Tokenizer(**gpt2_files, add_bos_token=True)
    assert tokenizer("a b", "c d", return_token_type_ids=True)["token_type_ids"].tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parity("G17")
def test_tokenizer_add_bos_token_with_tokenizer_json_and_truncation(data_dir):
    tokenizer = jt.load_tokenizer(data_dir / "tokenizers" / "gpt2", add_bos_token=True)
    expected = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "a", "Ġb"])
    assert tokenizer.encode("a b c d e", truncation=True, max_length=3) == expected
    tokenizer.bos_token = "!"
    assert tokenizer.encode("a") == [0, 64]


@pytest.mark.parity("G17")
def test_tokenizer_is_split_into_words(gpt2_files, fast):
    words = [["Hello", "world", "don't"], ["naïve", "<|endoftext|>", ""], []]
    reference = transformers.GPT2TokenizerFast(**gpt2_files, add_prefix_space=True)
    tokenizer = jt.GPT2Tokenizer(**gpt2_files, add_prefix_space=True)
    actual, expected = tokenizer(words, is_split_into_words=True), reference(words, is_split_into_words=True)
    assert [sequence.tolist() for sequence in actual["input_ids"]] == expected["input_ids"]
    assert [actual.word_ids(i) for i in range(3)] == [expected.word_ids(i) for i in range(3)]
    single = tokenizer(words[0], words[1], is_split_into_words=True)
    assert single["input_ids"].tolist() == reference(words[0], words[1], is_split_into_words=True)["input_ids"]
    pairs = tokenizer(words, words[::-1], is_split_into_words=True)["input_ids"]
    assert [sequence.tolist() for sequence in pairs] == reference(words, words[::-1], is_split_into_words=True)[
        "input_ids"
    ]


@pytest.mark.parity("G17")
def test_tokenizer_is_split_into_words_needs_add_prefix_space(small):
    with pytest.raises(ValueError, match="add_prefix_space=True"):
        small(["a", "b"], is_split_into_words=True)


@pytest.mark.parity("G17")
def test_tokenizer_unknown_bytes_become_the_unknown_token(tiny_folder):
    reference = transformers.GPT2Tokenizer.from_pretrained(tiny_folder)
    tokenizer = jt.load_tokenizer(tiny_folder)
    for text in ("lower newer", " lowest wider", "lower xyz!"):
        assert tokenizer.encode(text) == reference.encode(text)


@pytest.mark.parity("G18")
def test_in_graph_tokenizer_gives_arrays_of_one_shape(shared_tokenizer, fast):
    """Equivalent of the TF layer's `max_length` and `pad_token_id`: all calls return the same shape."""
    texts = np.array(["short", "", "a rather longer text that has to be cut " * 3])
    encoded = shared_tokenizer(texts, padding="max_length", truncation=True, max_length=8)
    assert encoded.input_ids.shape == encoded.attention_mask.shape == (3, 8)
    assert encoded.input_ids.dtype == encoded.attention_mask.dtype == np.int32
    for sequence, mask, text in zip(encoded.input_ids, encoded.attention_mask, texts, strict=True):
        ids = fast.encode(str(text))[:8]
        assert sequence.tolist() == ids + [shared_tokenizer.eos_token_id] * (8 - len(ids))
        assert mask.tolist() == [1] * len(ids) + [0] * (8 - len(ids))
    on_device = shared_tokenizer(texts, padding="max_length", truncation=True, max_length=8, return_tensors="jax")
    assert isinstance(on_device.input_ids, jnp.ndarray)
    assert shared_tokenizer.batch_decode(on_device.input_ids, skip_special_tokens=True)[:2] == ["short", ""]


@pytest.mark.parity("G17")
def test_tokenizer_refuses_lone_surrogates(small):
    with pytest.raises(ValueError, match=r"text 1 contains the lone surrogate U\+D83D at character 2"):
        small(["fine", "ab\ud83d"])
    with pytest.raises(ValueError, match="text 0"):
        small("a", "\udc00")
