"""Several processors together, in greedy decoding and in beam search, match the reference (docs/parity.md, N4).

Their order matters, and with beams they get log-probabilities.
"""

import numpy as np
import pytest
from support.arrays import close
from support.diverse_models import (
    NEVER_GENERATED,
    assert_equal_beams,
    assert_equal_scores,
    frequent_ids,
    generate,
    padded,
    random_ids,
    reference_generate,
)

PAD, PROMPT, NEW = 4, 9, 14
BEAMS = {"num_beams": 3, "early_stopping": True, "num_return_sequences": 2}


@pytest.fixture(scope="module")
def batches():
    """Prompts padded on the left, inputs on the right."""
    ids = random_ids(3, PROMPT, seed=2)
    return {side: padded(ids, [PROMPT, 4, 7], PAD, side) for side in ("left", "right")}


@pytest.fixture
def case(request, batches):
    """(pair, inputs, length of the prefix)"""
    pair = request.getfixturevalue(request.param)
    ids, mask = batches["left" if request.param == "gpt2" else "right"]
    return pair, {"ids": ids, "attention_mask": mask}, PROMPT if request.param == "gpt2" else 1


def some_slow(cases: list, slow: set[int]):
    return [pytest.param(*case, marks=pytest.mark.slow if i in slow else ()) for i, case in enumerate(cases)]


def option_sets(frequent: list[int], prefix: int) -> dict[str, dict]:
    """Options by name, with eos and banned ids that the model generates."""
    a, b, c, d, e, f = frequent[:6]
    return {
        "repetition": {
            "repetition_penalty": 1.4,
            "no_repeat_ngram_size": 2,
            "encoder_no_repeat_ngram_size": 1,
            "eos_token_id": [e, f],
        },
        "constraints": {
            "sequence_bias": {(b,): -2.0, (c, d): -9.0, (7,): 2.0},
            "repetition_penalty": 0.8,
            "bad_words_ids": [[c], [a, d], [e]],
            "min_length": prefix + 3,
            "min_new_tokens": 4,
            "forced_eos_token_id": f,
            "exponential_decay_length_penalty": (
                6,
                1.15,
            ),  # only once eos ids are allowed: in 4.57 they would become NaN
            "remove_invalid_values": True,
            "suppress_tokens": [11, 12],
            "begin_suppress_tokens": [d],
            "renormalize_logits": True,
            "eos_token_id": [a, b],
        },
    }


CASES = [
    ("gpt2", "repetition"),
    ("gpt2", "constraints"),
    ("bart", "repetition"),
    ("bart", "constraints"),
]


def both_outputs(case, name, **more):
    pair, inputs, prefix = case
    options = option_sets(frequent_ids(pair, **inputs), prefix)[name]
    options |= {"max_new_tokens": NEW, "pad_token_id": PAD, **more}
    actual = generate(pair, **inputs, **options, output_scores=True)
    return actual, reference_generate(pair, **inputs, **options), options["eos_token_id"]


@pytest.mark.parametrize(("case", "name"), some_slow(CASES, {2, 3}), indirect=["case"])
@pytest.mark.parity("N4")
def test_greedy_decoding_with_several_processors(case, name):
    actual, expected, eos = both_outputs(case, name)
    np.testing.assert_array_equal(actual.sequences, expected.sequences)
    assert_equal_scores(actual.scores, expected.scores)
    pair, inputs, _ = case
    free = generate(pair, **inputs, max_new_tokens=NEW, pad_token_id=PAD, eos_token_id=eos)
    assert not np.array_equal(free.sequences, actual.sequences), "the processors changed nothing"


@pytest.mark.parametrize(("case", "name"), some_slow(CASES, {0, 1}), indirect=["case"])
@pytest.mark.parity("N4")
def test_beam_search_with_several_processors(case, name):
    assert_equal_beams(*both_outputs(case, name, **BEAMS)[:2])


@pytest.mark.parametrize(
    ("case", "more"),
    some_slow([("gpt2", {"num_beams": 2}), ("bart", {}), ("bart", {"num_beams": 2})], {1, 2}),
    indirect=["case"],
)
@pytest.mark.parity("N4")
def test_prefix_allowed_tokens_fn_with_other_processors(case, more):
    """The function gets the sequences of each example, with their padding, but not the padding of the batch."""
    pair, inputs, _ = case
    seen = set()

    def allowed(example, ids):
        seen.add(int(example))
        return [int((int(ids[-1]) * 7 + int(example) * 3 + i * 5) % 60) + 6 for i in range(8)]

    ids, mask = (
        np.concatenate([a, a[:2]]) for a in (inputs["ids"], inputs["attention_mask"])
    )  # a batch of 5, padded to 6
    options = {
        "max_new_tokens": NEW,
        "pad_token_id": PAD,
        "eos_token_id": NEVER_GENERATED,
        "attention_mask": mask,
        **more,
    }
    actual = generate(pair, ids, prefix_allowed_tokens_fn=allowed, **options)
    assert seen == set(range(5))
    expected = reference_generate(pair, ids, prefix_allowed_tokens_fn=allowed, **options)
    np.testing.assert_array_equal(actual.sequences, expected.sequences)
    if more:
        close(actual.sequences_scores, expected.sequences_scores, tolerance=1e-4)


@pytest.mark.parity("N4")
def test_exceptions_of_the_prefix_function_are_raised(gpt2):
    def allowed(example, ids):
        if len(ids) == PROMPT + 3:
            raise KeyError("no such prefix")
        return [7]

    with pytest.raises(KeyError, match="no such prefix"):
        generate(gpt2, random_ids(1, PROMPT), prefix_allowed_tokens_fn=allowed, max_new_tokens=9)
    for wrong in ([], [67], [-1]):
        with pytest.raises(ValueError, match="prefix_allowed_tokens_fn must return at least one id of the 67"):
            generate(gpt2, random_ids(1, PROMPT), prefix_allowed_tokens_fn=lambda e, i, w=wrong: w, max_new_tokens=9)
    actual = generate(
        gpt2, random_ids(1, PROMPT), prefix_allowed_tokens_fn=lambda example, ids: [7, 8], max_new_tokens=9
    )
    assert set(np.asarray(actual.sequences)[0, PROMPT:].tolist()) <= {7, 8}
