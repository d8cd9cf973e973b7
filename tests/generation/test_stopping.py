"""Stopping conditions beside eos ids: strings, time, the caller's criteria (docs/parity.md, N2, X1)."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.arrays import close
from support.diverse_models import NEVER_GENERATED, generate, padded, random_ids
from support.programs import run_with

from jaxmodels.generation.loop import num_compiled

PAD, PROMPT, NEW = 4, 6, 20
OPTIONS = {"max_new_tokens": NEW, "pad_token_id": PAD, "eos_token_id": NEVER_GENERATED}


class Numbers:
    """Decodes every id as <id>, so that strings can begin and end inside tokens; records the lengths of its inputs."""

    def __init__(self):
        self.lengths = set()

    def decode(self, ids, *, skip_special_tokens: bool = False) -> str:
        self.lengths.add(len(ids))
        return "".join(f"<{i}>" for i in np.asarray(ids).tolist())


@pytest.fixture(scope="module")
def batch():
    """Five sequences, in a bucket of six."""
    ids, mask = padded(random_ids(5, PROMPT, seed=2), [6, 3, 5, 2, 6], PAD, "left")
    return {"ids": ids, "attention_mask": mask}


@pytest.fixture(scope="module")
def free(gpt2, batch):
    """The tokens without any stopping condition, [5,NEW]."""
    return np.asarray(generate(gpt2, **batch, **OPTIONS).sequences)[:, PROMPT:]


def cut(free: np.ndarray, strings: list[str]) -> np.ndarray:
    """The expected tokens: each sequence up to the token that completes a string."""
    rows, ends = free.copy(), []
    for row in rows:
        found = (n for n in range(1, NEW + 1) if any(s in Numbers().decode(row[:n]) for s in strings))
        ends.append(next(found, NEW))
        row[ends[-1] :] = PAD
    return rows[:, : max(ends)]


def spanning(row: np.ndarray, at: int) -> str:
    """A string that begins inside the token at index `at` and ends inside the next one."""
    return f"{row[at] % 10}><{str(row[at + 1])[0]}"


@pytest.mark.parametrize("chunk_size", [1, 3, 7, 32])
@pytest.mark.parity("X1")
def test_stop_strings_end_sequences_at_the_completing_token(chunk_size, gpt2, batch, free):
    everywhere = [spanning(row, 5 + i) for i, row in enumerate(free)]  # a string for every sequence: all end early
    for strings in (everywhere, everywhere[:1], [f"<{free[1, 0]}>"], ["no such thing"]):
        options = {"stop_strings": strings, "tokenizer": (tokenizer := Numbers()), **OPTIONS}
        actual = run_with({"chunk_size": chunk_size}, gpt2.model, gpt2.params, **batch, **options)
        np.testing.assert_array_equal(np.asarray(actual.sequences)[:, PROMPT:], cut(free, strings))
    lengths = {PROMPT + min(n, NEW) for n in range(chunk_size, NEW + chunk_size, chunk_size)}
    assert tokenizer.lengths == lengths | {PROMPT}, "it checks after each chunk"
    assert cut(free, everywhere).shape[1] < NEW == cut(free, ["no such thing"]).shape[1]


@pytest.mark.parity("X1")
def test_stop_strings_may_begin_but_not_end_in_the_prompt(gpt2, batch, free):
    old, new = batch["ids"][0, -2:], free[0, 0]
    for string, length in ((f"{old[0]}><{old[1]}><{str(new)[0]}", 1), (f"<{old[0]}><{old[1]}>", NEW)):
        actual = generate(gpt2, **batch, stop_strings=string, tokenizer=Numbers(), **OPTIONS)
        row = np.asarray(actual.sequences)[0, PROMPT:]
        np.testing.assert_array_equal(row[:length], free[0, :length])
        assert (row[length:] == PAD).all()
        np.testing.assert_array_equal(np.asarray(actual.sequences)[1:, PROMPT:], cut(free, [string])[1:])


class Cleaned(Numbers):
    """Removes the spaces before commas, unless told not to."""

    def decode(self, ids, *, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool = True) -> str:
        text = super().decode(ids).replace("><", " ,")
        return text.replace(" ,", ",") if clean_up_tokenization_spaces else text


@pytest.mark.parity("X1")
def test_stop_strings_are_compared_before_cleanup(gpt2, batch, free):
    ids = {name: array[:1] for name, array in batch.items()}
    first = free[0, 0]
    for string, length in ((f" ,{first} ,", 2), (f",{first},", NEW)):
        actual = generate(gpt2, **ids, stop_strings=[string], tokenizer=Cleaned(), **OPTIONS)
        np.testing.assert_array_equal(actual.sequences[0, PROMPT:], free[0, :length])


class Letters:
    """Two tokens encode a character; the first alone is a replacement character, as in byte-level tokenizers."""

    def decode(self, ids, *, skip_special_tokens: bool = False) -> str:
        pairs, rest = divmod(len(ids), 2)
        return "".join(chr(97 + int(ids[2 * i + 1]) % 26) for i in range(pairs)) + "\ufffd" * rest


@pytest.mark.parity("X1")
def test_a_character_begun_in_the_prompt_is_new_text(gpt2, free, batch):
    """The last token of the prompt is half a character."""
    ids = batch["ids"][:1, 1:]
    row = np.asarray(generate(gpt2, ids, **OPTIONS).sequences)[0, 5:]
    actual = generate(gpt2, ids, stop_strings=chr(97 + int(row[0]) % 26), tokenizer=Letters(), **OPTIONS)
    np.testing.assert_array_equal(actual.sequences[0, 5:], row[:1])


@pytest.mark.parity("X1")
def test_an_eos_id_ends_a_sequence_before_its_stop_string(gpt2, batch, free):
    eos = int(free[0, 3])
    actual = generate(
        gpt2, **batch, **{**OPTIONS, "eos_token_id": eos}, stop_strings=spanning(free[0], 8), tokenizer=Numbers()
    )
    row = np.asarray(actual.sequences)[0, PROMPT:]
    end = free[0].tolist().index(eos) + 1
    np.testing.assert_array_equal(row[:end], free[0, :end])
    assert (row[end:] == PAD).all()


@pytest.mark.parity("X1")
def test_the_longest_sequence_keeps_its_eos_id(gpt2, batch, free):
    eos = sorted({int(row[3]) for row in free})
    options = {**OPTIONS, "eos_token_id": eos, "stop_strings": "no such thing", "tokenizer": Numbers()}
    ends = np.isin(free, eos).argmax(axis=1)[:, None]
    expected = np.where(np.arange(NEW) <= ends, free, PAD)[:, : ends.max() + 1]
    np.testing.assert_array_equal(np.asarray(generate(gpt2, **batch, **options).sequences)[:, PROMPT:], expected)


@pytest.mark.parity("X1")
def test_streaming_ends_with_the_stop_string(gpt2, batch, free):
    columns, strings = [], [spanning(row, 5) for row in free]
    actual = generate(gpt2, **batch, stop_strings=strings, tokenizer=Numbers(), streamer=columns.append, **OPTIONS)
    np.testing.assert_array_equal(np.stack(columns, axis=1), np.asarray(actual.sequences)[:, PROMPT:])
    np.testing.assert_array_equal(np.asarray(actual.sequences)[:, PROMPT:], cut(free, strings))


@pytest.mark.parity("N2")
def test_max_time_ends_between_chunks(gpt2, batch, free):
    """With a clock that advances by one second whenever it is read."""
    lengths = []
    for seconds in (0.5, 2.0, 4.0, 1e6):
        clock = partial(next, iter(range(10**6)))
        out = run_with({"clock": clock}, gpt2.model, gpt2.params, **batch, max_time=seconds, **OPTIONS)
        actual = np.asarray(out.sequences)[:, PROMPT:]
        np.testing.assert_array_equal(actual, free[:, : actual.shape[1]])
        lengths.append(actual.shape[1])
    # At least one token, then four; after that as many as fit in half of the remaining time at the latest speed.
    assert lengths == [1, 4, 7, NEW]


@pytest.mark.parity("N2")
def test_max_time_with_stop_strings(gpt2, batch, free):
    strings = [spanning(row, 5) for row in free]
    actual = generate(gpt2, **batch, max_time=1e6, stop_strings=strings, tokenizer=Numbers(), **OPTIONS)
    np.testing.assert_array_equal(np.asarray(actual.sequences)[:, PROMPT:], cut(free, strings))


@pytest.mark.slow
@pytest.mark.parity("N2")
def test_beams_in_chunks_match_a_single_run(gpt2, batch):
    beams = {**OPTIONS, "num_beams": 2}
    actual = generate(gpt2, **batch, max_time=1e6, **beams)
    np.testing.assert_array_equal(actual.sequences, generate(gpt2, **batch, **beams).sequences)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EndsWith:
    """A sequence ends with this token."""

    token: jax.Array

    def __call__(self, text, scores):
        return text.last(1)[:, 0] == self.token


@pytest.mark.parity("N2")
def test_criteria_end_sequences(gpt2, batch, free):
    for index in (3, 9):
        token = int(free[0, index])
        actual = generate(gpt2, **batch, stopping_criteria=[EndsWith(jnp.int32(token))], **OPTIONS)
        expected = generate(gpt2, **batch, **{**OPTIONS, "eos_token_id": [NEVER_GENERATED, token]})
        np.testing.assert_array_equal(actual.sequences, expected.sequences)
    before = num_compiled()
    generate(gpt2, **batch, stopping_criteria=[EndsWith(jnp.int32(7))], **OPTIONS)
    assert num_compiled() == before, "its numbers are traced"


@pytest.mark.parity("N2")
def test_several_criteria_and_one_for_the_whole_batch(gpt2, batch, free):
    criteria = [lambda text, scores: text.generated >= 7, EndsWith(jnp.int32(int(free[0, 2])))]
    actual = np.asarray(generate(gpt2, **batch, stopping_criteria=criteria, **OPTIONS).sequences)[:, PROMPT:]
    assert actual.shape[1] == 7 and (actual[0, free[0].tolist().index(free[0, 2]) + 1 :] == PAD).all()
    whole = [row for row in range(5) if free[0, 2] not in free[row, :7]]
    np.testing.assert_array_equal(actual[whole], free[whole, :7])


@pytest.mark.parity("N2")
def test_beams_end_when_the_criterion_holds_for_all_real_examples(gpt2, batch):
    """For the padding of the batch the criterion would never hold: it generates only padding."""

    def enough(text, scores):
        written = text.written & (jnp.arange(text.ids.shape[1]) >= text.prompt)
        return (written & (text.ids != PAD)).sum(axis=1) >= 5

    beams = {**OPTIONS, "num_beams": 3, "num_return_sequences": 3, "suppress_tokens": [PAD]}
    actual = generate(gpt2, **batch, stopping_criteria=[enough], **beams)
    expected = generate(gpt2, **batch, **{**beams, "max_new_tokens": 5})
    np.testing.assert_array_equal(actual.sequences, expected.sequences)
    close(actual.sequences_scores, expected.sequences_scores, tolerance=1e-5)
