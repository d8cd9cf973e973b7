"""Decoding compared with the reference (docs/parity.md, G17, T5)."""

import random

import jax.numpy as jnp
import numpy as np
import pytest
import transformers
from support.hard_texts import HARD_TEXTS

import jaxmodels.tokenization as jt


def random_ids(vocabulary, count=200, seed=0):
    """Return sequences of random ids, most of which contain invalid UTF-8."""
    rng = random.Random(seed)
    # the ids below 256 are single bytes
    return [[rng.randrange(rng.choice((256, vocabulary))) for _ in range(rng.randrange(1, 25))] for _ in range(count)]


@pytest.mark.parity("G17")
def test_tokenizer_byte_table_is_the_references():
    from transformers.models.gpt2.tokenization_gpt2 import bytes_to_unicode

    from jaxmodels.tokenization.byte_level import BYTES

    assert {byte: character for character, byte in BYTES.items()} == bytes_to_unicode()


@pytest.mark.parametrize("clean_up", [False, True])
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parity("G17", "T5")
def test_tokenizer_decode_equals_both_references(shared_tokenizer, fast, slow, skip, clean_up):
    end = shared_tokenizer.eos_token_id
    sequences = [*random_ids(len(slow)), [end, 40, end], [end], [], [0, 220, 13, 220, 11, 705, 82, 299, 470]]
    actual = shared_tokenizer.batch_decode(sequences, skip, clean_up)
    assert actual == fast.batch_decode(sequences, skip, clean_up)
    assert actual == slow.batch_decode(sequences, skip, clean_up)


@pytest.mark.parametrize("errors", ["replace", "ignore", "backslashreplace"])
@pytest.mark.parity("G17", "T5")
def test_tokenizer_errors_equal_the_slow_reference(gpt2_files, errors):
    tokenizer, slow = (cls(**gpt2_files, errors=errors) for cls in (jt.GPT2Tokenizer, transformers.GPT2Tokenizer))
    sequences = random_ids(len(slow), seed=1)
    actual = tokenizer.batch_decode(sequences, clean_up_tokenization_spaces=False)
    assert actual == slow.batch_decode(sequences, clean_up_tokenization_spaces=False)
    tokens = [tokenizer.convert_ids_to_tokens(ids) for ids in sequences]
    assert [tokenizer.convert_tokens_to_string(ids) for ids in tokens] == actual


@pytest.mark.parity("G17", "T5")
def test_tokenizer_errors_may_be_strict(small_folder):
    tokenizer = jt.load_tokenizer(small_folder, errors="strict")
    ids = tokenizer.encode("東")
    assert tokenizer.decode(ids) == "東"
    with pytest.raises(UnicodeDecodeError):
        tokenizer.decode(ids[:-1])
    with pytest.raises(ValueError, match="errors must be .* got 'loose'"):
        jt.load_tokenizer(small_folder, errors="loose")


@pytest.mark.parity("T5")
def test_hard_texts_survive(shared_tokenizer):
    ids = shared_tokenizer(HARD_TEXTS).input_ids
    assert shared_tokenizer.batch_decode(ids, clean_up_tokenization_spaces=False) == HARD_TEXTS


@pytest.mark.parametrize(
    "ids",
    [40, np.int64(40), [40, 41], (40, 41), np.array([40, 41]), jnp.array([40, 41]), jnp.array(40), [np.int32(40)], []],
    ids=repr,
)
@pytest.mark.parity("T5")
def test_decode_takes_ints_lists_and_arrays(shared_tokenizer, fast, ids):
    assert shared_tokenizer.decode(ids) == fast.decode(np.asarray(ids, int).reshape(-1).tolist())


@pytest.mark.parity("T5")
def test_batch_decode_takes_arrays(shared_tokenizer, fast):
    end = shared_tokenizer.pad_token_id
    array = np.array([[40, 41, 42], [43, end, end]])
    expected = fast.batch_decode(array, skip_special_tokens=True)
    assert shared_tokenizer.batch_decode(array, skip_special_tokens=True) == expected
    assert shared_tokenizer.batch_decode(jnp.array(array), skip_special_tokens=True) == expected
    assert shared_tokenizer.batch_decode(list(jnp.array(array)), skip_special_tokens=True) == expected
    assert shared_tokenizer.batch_decode([40, 41]) == fast.batch_decode([40, 41])


@pytest.mark.parity("T5")
def test_decode_refuses_invalid_ids(shared_tokenizer):
    with pytest.raises(ValueError, match=r"shape \(1, 2\); batch_decode"):
        shared_tokenizer.decode(np.array([[1, 2]]))
    with pytest.raises(ValueError, match="-100 is not a token id"):
        shared_tokenizer.decode([1, -100])
    with pytest.raises(TypeError, match="float"):
        shared_tokenizer.decode(np.array([1.0]))
    with pytest.raises(TypeError, match="spaces_between"):
        shared_tokenizer.decode([1], spaces_between_special_tokens=True)


@pytest.mark.parity("T5")
def test_ids_outside_the_vocabulary_are_ignored(shared_tokenizer, fast):
    assert shared_tokenizer.decode([40, 50300, 41]) == fast.decode([40, 50300, 41])
    assert shared_tokenizer.convert_ids_to_tokens([40, 50300]) == fast.convert_ids_to_tokens([40, 50300])


@pytest.mark.parity("T3")
def test_tokens_and_ids(shared_tokenizer, fast):
    tokens = ["ould", "Ġworld", "<|endoftext|>", "no such token"]
    assert shared_tokenizer.convert_tokens_to_ids(tokens) == fast.convert_tokens_to_ids(tokens)
    assert shared_tokenizer.convert_tokens_to_ids("ould") == fast.convert_tokens_to_ids("ould")
    ids = fast.convert_tokens_to_ids(tokens[:3])
    for skip in (False, True):
        assert shared_tokenizer.convert_ids_to_tokens(ids, skip) == fast.convert_ids_to_tokens(ids, skip)
    assert shared_tokenizer.convert_ids_to_tokens(995) == "Ġworld"
    assert shared_tokenizer.convert_tokens_to_string(tokens[:3]) == fast.convert_tokens_to_string(tokens[:3])
    assert shared_tokenizer.get_special_tokens_mask(ids) == [0, 0, 1]


@pytest.mark.parity("T5")
def test_clean_up_defaults_to_the_setting(small_folder, data_dir):
    """It is false in the folder of the case and true by default, as in transformers 4.37."""
    text = "it 's a test , is n't it ? yes ."
    plain = jt.load_tokenizer(small_folder)
    assert plain.decode(plain.encode(text)) == text
    assert plain.decode(plain.encode(text), clean_up_tokenization_spaces=True) == "it's a test, isn't it? yes."
    default = jt.load_tokenizer(data_dir / "tokenizers" / "gpt2")
    assert default.decode(default.encode(text)) == "it's a test, isn't it? yes."


@pytest.mark.parity("T5", "T6")
def test_added_tokens_decode_as_text(small):
    """Their characters are text, even those that represent bytes in other tokens."""
    small.add_tokens(["é", "Ġx", "my token"])
    ids = small.encode("aéb Ġx my token")
    assert small.decode(ids) == "aéb Ġx my token"
