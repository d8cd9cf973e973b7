"""What ends a text beside its eos ids: strings, time, the caller's criteria (docs/parity.md, N2, X1)."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.arrays import close
from support.lively import UNHEARD, ours, padded, texts
from support.programs import run_with

from jaxmodels.generation import recompiles

PAD, PROMPT, NEW = 4, 6, 20
OPTIONS = {"max_new_tokens": NEW, "pad_token_id": PAD, "eos_token_id": UNHEARD}


class Numbers:
    """Writes every id as <id>, so that a string may begin and end inside tokens; notes how many it was given."""

    def __init__(self):
        self.lengths = set()

    def decode(self, ids, *, skip_special_tokens: bool = False) -> str:
        self.lengths.add(len(ids))
        return "".join(f"<{i}>" for i in np.asarray(ids).tolist())


@pytest.fixture(scope="module")
def batch():
    """Five rows, in a bucket of six."""
    ids, mask = padded(texts(5, PROMPT, seed=2), [6, 3, 5, 2, 6], PAD, "left")
    return {"ids": ids, "attention_mask": mask}


@pytest.fixture(scope="module")
def free(gpt2, batch):
    """What comes without a stop, [5,NEW]."""
    return np.asarray(ours(gpt2, **batch, **OPTIONS).sequences)[:, PROMPT:]


def cut(free: np.ndarray, strings: list[str]) -> np.ndarray:
    """What should be left: each row up to the token that completes a string."""
    rows, ends = free.copy(), []
    for row in rows:
        found = (n for n in range(1, NEW + 1) if any(s in Numbers().decode(row[:n]) for s in strings))
        ends.append(next(found, NEW))
        row[ends[-1] :] = PAD
    return rows[:, : max(ends)]


def across(row: np.ndarray, at: int) -> str:
    """Begins inside the token at a place and ends inside the next one."""
    return f"{row[at] % 10}><{str(row[at + 1])[0]}"


@pytest.mark.parametrize("stretch", [1, 3, 7, 32])
@pytest.mark.parity("X1")
def test_stop_strings_end_rows_at_the_token_that_completes_them(stretch, gpt2, batch, free):
    everywhere = [across(row, 5 + i) for i, row in enumerate(free)]  # a string for every row: all end early
    for strings in (everywhere, everywhere[:1], [f"<{free[1, 0]}>"], ["no such thing"]):
        asked = {"stop_strings": strings, "tokenizer": (reads := Numbers()), **OPTIONS}
        got = run_with({"stretch": stretch}, gpt2.model, gpt2.params, **batch, **asked)
        np.testing.assert_array_equal(np.asarray(got.sequences)[:, PROMPT:], cut(free, strings))
    lengths = {PROMPT + min(n, NEW) for n in range(stretch, NEW + stretch, stretch)}
    assert reads.lengths == lengths | {PROMPT}, "it looks after each stretch"
    assert cut(free, everywhere).shape[1] < NEW == cut(free, ["no such thing"]).shape[1]


@pytest.mark.parity("X1")
def test_a_stop_string_may_begin_in_the_prompt_but_not_end_there(gpt2, batch, free):
    old, new = batch["ids"][0, -2:], free[0, 0]
    for string, length in ((f"{old[0]}><{old[1]}><{str(new)[0]}", 1), (f"<{old[0]}><{old[1]}>", NEW)):
        got = ours(gpt2, **batch, stop_strings=string, tokenizer=Numbers(), **OPTIONS)
        row = np.asarray(got.sequences)[0, PROMPT:]
        np.testing.assert_array_equal(row[:length], free[0, :length])
        assert (row[length:] == PAD).all()
        np.testing.assert_array_equal(np.asarray(got.sequences)[1:, PROMPT:], cut(free, [string])[1:])


class Cleaned(Numbers):
    """Takes the spaces before commas away, unless it is told not to."""

    def decode(self, ids, *, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool = True) -> str:
        text = super().decode(ids).replace("><", " ,")
        return text.replace(" ,", ",") if clean_up_tokenization_spaces else text


@pytest.mark.parity("X1")
def test_stop_strings_are_looked_for_before_spaces_are_cleaned_up(gpt2, batch, free):
    ids = {name: array[:1] for name, array in batch.items()}
    first = free[0, 0]
    for string, length in ((f" ,{first} ,", 2), (f",{first},", NEW)):
        got = ours(gpt2, **ids, stop_strings=[string], tokenizer=Cleaned(), **OPTIONS)
        np.testing.assert_array_equal(got.sequences[0, PROMPT:], free[0, :length])


class Letters:
    """Two tokens make a character: alone, the first is a replacement character, as of a byte-level tokenizer."""

    def decode(self, ids, *, skip_special_tokens: bool = False) -> str:
        pairs, rest = divmod(len(ids), 2)
        return "".join(chr(97 + int(ids[2 * i + 1]) % 26) for i in range(pairs)) + "\ufffd" * rest


@pytest.mark.parity("X1")
def test_a_character_that_the_prompt_begins_is_new_text(gpt2, free, batch):
    """The prompt's last token is half a character."""
    ids = batch["ids"][:1, 1:]
    row = np.asarray(ours(gpt2, ids, **OPTIONS).sequences)[0, 5:]
    got = ours(gpt2, ids, stop_strings=chr(97 + int(row[0]) % 26), tokenizer=Letters(), **OPTIONS)
    np.testing.assert_array_equal(got.sequences[0, 5:], row[:1])


@pytest.mark.parity("X1")
def test_an_eos_id_ends_a_row_before_its_string(gpt2, batch, free):
    eos = int(free[0, 3])
    got = ours(gpt2, **batch, **{**OPTIONS, "eos_token_id": eos}, stop_strings=across(free[0], 8), tokenizer=Numbers())
    row = np.asarray(got.sequences)[0, PROMPT:]
    end = free[0].tolist().index(eos) + 1
    np.testing.assert_array_equal(row[:end], free[0, :end])
    assert (row[end:] == PAD).all()


@pytest.mark.parity("X1")
def test_the_longest_row_keeps_the_eos_id_that_ended_it(gpt2, batch, free):
    eos = sorted({int(row[3]) for row in free})
    asked = {**OPTIONS, "eos_token_id": eos, "stop_strings": "no such thing", "tokenizer": Numbers()}
    ends = np.isin(free, eos).argmax(axis=1)[:, None]
    expected = np.where(np.arange(NEW) <= ends, free, PAD)[:, : ends.max() + 1]
    np.testing.assert_array_equal(np.asarray(ours(gpt2, **batch, **asked).sequences)[:, PROMPT:], expected)


@pytest.mark.parity("X1")
def test_what_is_streamed_ends_with_the_string(gpt2, batch, free):
    columns, strings = [], [across(row, 5) for row in free]
    got = ours(gpt2, **batch, stop_strings=strings, tokenizer=Numbers(), streamer=columns.append, **OPTIONS)
    np.testing.assert_array_equal(np.stack(columns, axis=1), np.asarray(got.sequences)[:, PROMPT:])
    np.testing.assert_array_equal(np.asarray(got.sequences)[:, PROMPT:], cut(free, strings))


@pytest.mark.parity("N2")
def test_max_time_ends_between_stretches(gpt2, batch, free):
    """A clock that is one second later whenever it is looked at."""
    lengths = []
    for seconds in (0.5, 2.0, 4.0, 1e6):
        ticking = partial(next, iter(range(10**6)))
        out = run_with({"ticking": ticking}, gpt2.model, gpt2.params, **batch, max_time=seconds, **OPTIONS)
        got = np.asarray(out.sequences)[:, PROMPT:]
        np.testing.assert_array_equal(got, free[:, : got.shape[1]])
        lengths.append(got.shape[1])
    # One token at least, then four; after those as many as half of the time left is for, at the pace of the last ones.
    assert lengths == [1, 4, 7, NEW]


@pytest.mark.parity("N2")
def test_max_time_with_stop_strings(gpt2, batch, free):
    strings = [across(row, 5) for row in free]
    got = ours(gpt2, **batch, max_time=1e6, stop_strings=strings, tokenizer=Numbers(), **OPTIONS)
    np.testing.assert_array_equal(np.asarray(got.sequences)[:, PROMPT:], cut(free, strings))


@pytest.mark.slow
@pytest.mark.parity("N2")
def test_beams_in_stretches_are_those_of_one_run(gpt2, batch):
    beams = {**OPTIONS, "num_beams": 2}
    got = ours(gpt2, **batch, max_time=1e6, **beams)
    np.testing.assert_array_equal(got.sequences, ours(gpt2, **batch, **beams).sequences)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Said:
    """A row ends with this token."""

    token: jax.Array

    def __call__(self, text, scores):
        return text.last(1)[:, 0] == self.token


@pytest.mark.parity("N2")
def test_criteria_end_rows(gpt2, batch, free):
    for place in (3, 9):
        token = int(free[0, place])
        got = ours(gpt2, **batch, stopping_criteria=[Said(jnp.int32(token))], **OPTIONS)
        expected = ours(gpt2, **batch, **{**OPTIONS, "eos_token_id": [UNHEARD, token]})
        np.testing.assert_array_equal(got.sequences, expected.sequences)
    before = recompiles.compiled()
    ours(gpt2, **batch, stopping_criteria=[Said(jnp.int32(7))], **OPTIONS)
    assert recompiles.compiled() == before, "its numbers are traced"


@pytest.mark.parity("N2")
def test_criteria_that_end_everything_and_several_of_them(gpt2, batch, free):
    criteria = [lambda text, scores: text.generated >= 7, Said(jnp.int32(int(free[0, 2])))]
    got = np.asarray(ours(gpt2, **batch, stopping_criteria=criteria, **OPTIONS).sequences)[:, PROMPT:]
    assert got.shape[1] == 7 and (got[0, free[0].tolist().index(free[0, 2]) + 1 :] == PAD).all()
    whole = [row for row in range(5) if free[0, 2] not in free[row, :7]]
    np.testing.assert_array_equal(got[whole], free[whole, :7])


@pytest.mark.parity("N2")
def test_beams_end_when_the_criterion_holds_for_all_that_are_real(gpt2, batch):
    """Of rows that fill the bucket it would never hold: they say nothing but padding."""

    def enough(text, scores):
        written = text.written & (jnp.arange(text.ids.shape[1]) >= text.prompt)
        return (written & (text.ids != PAD)).sum(axis=1) >= 5

    beams = {**OPTIONS, "num_beams": 3, "num_return_sequences": 3, "suppress_tokens": [PAD]}
    got = ours(gpt2, **batch, stopping_criteria=[enough], **beams)
    expected = ours(gpt2, **batch, **{**beams, "max_new_tokens": 5})
    np.testing.assert_array_equal(got.sequences, expected.sequences)
    close(got.sequences_scores, expected.sequences_scores, tolerance=1e-5)
