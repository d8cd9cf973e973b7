"""Processors that are on together, in greedy decoding and in beam search, give the reference's ids and scores
(docs/parity.md, N4): their order matters, and in beams they see log-probabilities.
"""

import numpy as np
import pytest
from support.arrays import close
from support.lively import UNHEARD, equal_beams, equal_scores, often_said, ours, padded, texts, theirs

PAD, PROMPT, NEW = 4, 9, 14
BEAMS = {"num_beams": 3, "early_stopping": True, "num_return_sequences": 2}


@pytest.fixture(scope="module")
def batches():
    """Prompts padded on the left, inputs on the right."""
    rows = texts(3, PROMPT, seed=2)
    return {side: padded(rows, [PROMPT, 4, 7], PAD, side) for side in ("left", "right")}


@pytest.fixture
def case(request, batches):
    """(pair, inputs, tokens that a text begins with)"""
    pair = request.getfixturevalue(request.param)
    ids, mask = batches["left" if request.param == "gpt2" else "right"]
    return pair, {"ids": ids, "attention_mask": mask}, PROMPT if request.param == "gpt2" else 1


def some_slow(cases: list, slow: set[int]):
    return [pytest.param(*case, marks=pytest.mark.slow if i in slow else ()) for i, case in enumerate(cases)]


def sets(said: list[int], beginning: int) -> dict[str, dict]:
    """Options by name; eos and banned ids are such that the model does say."""
    a, b, c, d, e, f = said[:6]
    return {
        "what came before": {
            "repetition_penalty": 1.4,
            "no_repeat_ngram_size": 2,
            "encoder_no_repeat_ngram_size": 1,
            "eos_token_id": [e, f],
        },
        "what may come": {
            "sequence_bias": {(b,): -2.0, (c, d): -9.0, (7,): 2.0},
            "repetition_penalty": 0.8,
            "bad_words_ids": [[c], [a, d], [e]],
            "min_length": beginning + 3,
            "min_new_tokens": 4,
            "forced_eos_token_id": f,
            "exponential_decay_length_penalty": (6, 1.15),  # once an end is allowed: 4.57 would make NaN of it
            "remove_invalid_values": True,
            "suppress_tokens": [11, 12],
            "begin_suppress_tokens": [d],
            "renormalize_logits": True,
            "eos_token_id": [a, b],
        },
    }


CASES = [
    ("gpt2", "what came before"),
    ("gpt2", "what may come"),
    ("bart", "what came before"),
    ("bart", "what may come"),
]


def both_ways(case, name, **more):
    pair, inputs, beginning = case
    options = sets(often_said(pair, **inputs), beginning)[name]
    options |= {"max_new_tokens": NEW, "pad_token_id": PAD, **more}
    got = ours(pair, **inputs, **options, output_scores=True)
    return got, theirs(pair, **inputs, **options), options["eos_token_id"]


@pytest.mark.parametrize(("case", "name"), some_slow(CASES, {2, 3}), indirect=["case"])
@pytest.mark.parity("N4")
def test_greedy_decoding_with_several_processors(case, name):
    got, expected, eos = both_ways(case, name)
    np.testing.assert_array_equal(got.sequences, expected.sequences)
    equal_scores(got.scores, expected.scores)
    pair, inputs, _ = case
    free = ours(pair, **inputs, max_new_tokens=NEW, pad_token_id=PAD, eos_token_id=eos)
    assert not np.array_equal(free.sequences, got.sequences), "the processors changed nothing"


@pytest.mark.parametrize(("case", "name"), some_slow(CASES, {0, 1}), indirect=["case"])
@pytest.mark.parity("N4")
def test_beam_search_with_several_processors(case, name):
    equal_beams(*both_ways(case, name, **BEAMS)[:2])


@pytest.mark.parametrize(
    ("case", "more"),
    some_slow([("gpt2", {"num_beams": 2}), ("bart", {}), ("bart", {"num_beams": 2})], {1, 2}),
    indirect=["case"],
)
@pytest.mark.parity("N4")
def test_prefix_allowed_tokens_fn_with_other_processors(case, more):
    """The function sees each example's texts, padding included, and never a row that fills a bucket."""
    pair, inputs, beginning = case
    seen = set()

    def allowed(example, ids):
        seen.add(int(example))
        return [int((int(ids[-1]) * 7 + int(example) * 3 + i * 5) % 60) + 6 for i in range(8)]

    ids, mask = (np.concatenate([a, a[:2]]) for a in (inputs["ids"], inputs["attention_mask"]))  # 5 rows, a bucket of 6
    options = {"max_new_tokens": NEW, "pad_token_id": PAD, "eos_token_id": UNHEARD, "attention_mask": mask, **more}
    got = ours(pair, ids, prefix_allowed_tokens_fn=allowed, **options)
    assert seen == set(range(5))
    expected = theirs(pair, ids, prefix_allowed_tokens_fn=allowed, **options)
    np.testing.assert_array_equal(got.sequences, expected.sequences)
    if more:
        close(got.sequences_scores, expected.sequences_scores, tolerance=1e-4)


@pytest.mark.parity("N4")
def test_what_the_prefix_function_raises_comes_out(gpt2):
    def allowed(example, ids):
        if len(ids) == PROMPT + 3:
            raise KeyError("no such prefix")
        return [7]

    with pytest.raises(KeyError, match="no such prefix"):
        ours(gpt2, texts(1, PROMPT), prefix_allowed_tokens_fn=allowed, max_new_tokens=9)
    for wrong in ([], [67], [-1]):
        with pytest.raises(ValueError, match="prefix_allowed_tokens_fn gives at least one id of the 67"):
            ours(gpt2, texts(1, PROMPT), prefix_allowed_tokens_fn=lambda e, i, w=wrong: w, max_new_tokens=9)
    got = ours(gpt2, texts(1, PROMPT), prefix_allowed_tokens_fn=lambda example, ids: [7, 8], max_new_tokens=9)
    assert set(np.asarray(got.sequences)[0, PROMPT:].tolist()) <= {7, 8}
