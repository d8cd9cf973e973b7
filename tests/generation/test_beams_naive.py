"""Beams over branches of one cache give what a search does that reads every text anew (docs/parity.md, N5, N6).

The search is `naive_beams`. It gave the ids and scores (to 1e-4) of 4.37.2 itself in 150 random cases: GPT-2 and BART,
2 to 6 beams, groups, all rules of stopping, penalties for length, repetition and n-grams, one to three eos ids.
"""

import numpy as np
import pytest
import torch
from support.arrays import close
from support.lively import UNHEARD, lively, often_said, ours, padded, texts, theirs
from support.naive_beams import laid_out, search
from support.reference import Pair
from transformers.generation import logits_process as reference

PAD, NEW, PROMPT = 4, 16, 6


@pytest.fixture(scope="module")
def said(gpt2):
    return often_said(gpt2, texts(2, PROMPT))


def naive(pair: Pair, ids, mask=None, *, give, process=(), **options):
    """The naive search for each row; padding is left out of what it reads."""
    rows = [row if mask is None else row[mask[i] == 1] for i, row in enumerate(ids)]

    def read(tokens):
        with torch.no_grad():
            return pair.reference(torch.tensor(tokens), use_cache=False).logits[:, -1]

    found = [search(read, row.tolist(), new=NEW, pad=PAD, process=process, **options) for row in rows]
    return laid_out(found, ids, give=give, width=options["beams"], pad=PAD)


def agree(pair: Pair, ids, mask=None, *, beams, give, eos, groups=1, diversity=0.0, process=(), given=None, **options):
    sequences, scores, indices = naive(
        pair, ids, mask, beams=beams, give=give, eos=eos, groups=groups, diversity=diversity, process=process, **options
    )
    more = {"num_beam_groups": groups, "diversity_penalty": diversity} if groups > 1 else {}
    got = ours(
        pair,
        ids,
        attention_mask=mask,
        num_beams=beams,
        num_return_sequences=give,
        eos_token_id=eos,
        pad_token_id=PAD,
        max_new_tokens=NEW,
        **more,
        **options,
        **(given or {}),
    )
    np.testing.assert_array_equal(got.sequences, sequences)
    close(got.sequences_scores, scores, "sequences_scores", tolerance=1e-4)
    np.testing.assert_array_equal(got.beam_indices, indices)
    return sequences


@pytest.mark.parametrize("penalty", [0.5, 1.0, 2.0])
@pytest.mark.parity("N5")
def test_early_stopping_false_with_a_positive_penalty(penalty, gpt2, said):
    for eos in said[:3]:
        agree(gpt2, texts(2, PROMPT), beams=4, give=4, eos=[eos], length_penalty=penalty, early_stopping=False)


@pytest.mark.parity("N5")
def test_4_57_goes_on_where_4_37_stops(gpt2, said):
    """Why the naive search is here: with early_stopping=False the two versions differ."""
    options = {"num_beams": 4, "max_new_tokens": NEW, "pad_token_id": PAD, "length_penalty": 2.0}
    lengths = [
        [f(gpt2, texts(2, PROMPT), eos_token_id=eos, **options).sequences.shape[1] for f in (ours, theirs)]
        for eos in said[:6]
    ]
    assert any(mine != later for mine, later in lengths)


@pytest.mark.parametrize(
    ("beams", "groups"), [(4, 2), *(pytest.param(*sizes, marks=pytest.mark.slow) for sizes in ((3, 3), (6, 2)))]
)
@pytest.mark.parity("N6")
def test_beam_groups_give_what_the_naive_search_gives(beams, groups, gpt2, said):
    ended = set()
    for eos, diversity, penalty in ((said[:1], 0.5, 1.0), (said[1:2], 3.0, 0.0), (said[2:3], 1.0, 2.0)):
        options = {"groups": groups, "diversity": diversity, "length_penalty": penalty}
        got = agree(gpt2, texts(2, PROMPT), beams=beams, give=beams, eos=eos, **options)
        ended.add(bool((got[:, -1] == PAD).any()))
    assert True in ended


@pytest.mark.parametrize("early_stopping", [True, pytest.param("never", marks=pytest.mark.slow)])
@pytest.mark.parity("N6")
def test_beam_groups_with_several_eos_ids_in_a_padded_batch(early_stopping, gpt2, said):
    ids, mask = padded(texts(2, PROMPT, seed=3), [6, 3], PAD, "left")
    options = {"groups": 2, "diversity": 0.7, "early_stopping": early_stopping}
    agree(gpt2, ids, mask, beams=4, give=3, eos=said[:3], **options)


@pytest.mark.slow
@pytest.mark.parity("N6")
def test_a_penalty_for_what_earlier_groups_chose_comes_before_the_one_for_repetition(gpt2, said):
    process = (reference.RepetitionPenaltyLogitsProcessor(1.4), reference.NoRepeatNGramLogitsProcessor(2))
    given = {"repetition_penalty": 1.4, "no_repeat_ngram_size": 2}
    options = {"groups": 2, "diversity": 0.7, "process": process, "given": given}
    agree(gpt2, texts(2, PROMPT), beams=4, give=4, eos=said[:1], **options)


@pytest.mark.slow
@pytest.mark.parity("N6")
def test_diversity_makes_groups_differ(gpt2):
    options = {"num_beams": 4, "max_new_tokens": NEW, "num_return_sequences": 4, "eos_token_id": UNHEARD}
    options |= {"pad_token_id": PAD, "num_beam_groups": 4}

    def firsts(diversity):
        got = ours(gpt2, texts(1, PROMPT), diversity_penalty=diversity, **options)
        return len(set(np.asarray(got.sequences)[:, PROMPT].tolist()))

    assert firsts(1e-4) == 1 and firsts(100.0) == 4


KINDS = ["relative_key_query", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("relative_key", "absolute"))]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parity("R5")
def test_beams_of_a_model_with_distances(kind, tmp_path):
    """All branches stand at one place, in slots that are not in the order of their texts."""
    pair = lively("RobertaPreLayerNormForCausalLM", tmp_path, position_embedding_type=kind, seed=2)
    eos = often_said(pair, texts(2, PROMPT))[:1]
    ids, mask = padded(texts(2, PROMPT), [6, 4], 1, "left")
    agree(pair, ids, mask, beams=3, give=3, eos=eos, early_stopping=True)


def test_beams_are_the_same_alone_in_a_batch_and_in_another_bucket(gpt2, said):
    lengths = [6, 2, 5]
    ids, mask = padded(texts(3, PROMPT, seed=5), lengths, PAD, "left")
    options = {"num_beams": 3, "num_return_sequences": 3, "eos_token_id": said[:1], "pad_token_id": PAD}
    options |= {"max_new_tokens": NEW}

    def rows(out, prompt):
        return np.asarray(out.sequences)[:, prompt:], np.asarray(out.sequences_scores)

    def same(got, expected):
        width = min(got[0].shape[1], expected[0].shape[1])
        np.testing.assert_array_equal(got[0][:, :width], expected[0][:, :width])
        assert (got[0][:, width:] == PAD).all() and (expected[0][:, width:] == PAD).all()
        np.testing.assert_allclose(got[1], expected[1], rtol=1e-5)

    batch = rows(ours(gpt2, ids, attention_mask=mask, **options), PROMPT)
    wide = np.pad(ids, ((0, 0), (36, 0)), constant_values=PAD), np.pad(mask, ((0, 0), (36, 0)))
    same(rows(ours(gpt2, wide[0], attention_mask=wide[1], **options), PROMPT + 36), batch)
    for row, length in enumerate(lengths):
        alone = rows(ours(gpt2, ids[row : row + 1, -length:], **options), length)
        same(alone, tuple(part[3 * row : 3 * row + 3] for part in batch))
