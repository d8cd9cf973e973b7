"""Classifier-free guidance gives the reference's ids and scores (docs/parity.md, N4; arXiv:2306.17806)."""

import numpy as np
import pytest
import torch
from support.arrays import close
from support.lively import UNHEARD, equal_scores, ours, padded, texts, theirs
from support.naive_beams import laid_out, search

from jaxmodels.generation import recompiles

PAD, NEW = 4, 12
OPTIONS = {"max_new_tokens": NEW, "pad_token_id": PAD, "eos_token_id": UNHEARD}


@pytest.mark.parity("N4")
def test_guided_away_from_the_last_token(gpt2):
    free = np.asarray(ours(gpt2, texts(1, 6), **OPTIONS).sequences)
    changed = []
    for scale in (1.5, 3.0, 0.5):
        got = ours(gpt2, texts(1, 6), guidance_scale=scale, output_scores=True, **OPTIONS)
        expected = theirs(gpt2, texts(1, 6), guidance_scale=scale, **OPTIONS)
        np.testing.assert_array_equal(got.sequences, expected.sequences)
        equal_scores(got.scores, expected.scores)
        changed.append(not np.array_equal(got.sequences, free))
    assert any(changed)


@pytest.mark.parity("N4")
def test_guided_away_from_a_negative_prompt_and_other_processors_after_it(gpt2):
    options = {**OPTIONS, "guidance_scale": 2.0, "repetition_penalty": 1.5, "no_repeat_ngram_size": 2}
    for length in (5, 6):
        negative = texts(1, length, seed=7)
        got = ours(gpt2, texts(1, 6), negative_prompt_ids=negative, output_scores=True, **options)
        expected = theirs(gpt2, texts(1, 6), negative_prompt_ids=negative, **options)
        np.testing.assert_array_equal(got.sequences, expected.sequences)
        equal_scores(got.scores, expected.scores)


@pytest.mark.slow
@pytest.mark.parity("N4")
def test_a_padded_batch_of_prompts_and_negative_prompts_is_guided_row_by_row(gpt2):
    """In the reference positions of a padded negative prompt are wrong; here they count its real tokens."""
    ids, mask = padded(texts(2, 6), [6, 3], PAD, "left")
    negative, flags = padded(texts(2, 5, seed=7), [2, 5], PAD, "left")
    options = {**OPTIONS, "guidance_scale": 2.0}
    batch = ours(
        gpt2, ids, attention_mask=mask, negative_prompt_ids=negative, negative_prompt_attention_mask=flags, **options
    )
    for row, (length, other) in enumerate(((6, 2), (3, 5))):
        alone = ours(
            gpt2, ids[row : row + 1, -length:], negative_prompt_ids=negative[row : row + 1, -other:], **options
        )
        np.testing.assert_array_equal(batch.sequences[row, 6:], alone.sequences[0, length:])


@pytest.mark.parity("N4")
def test_guided_beams_are_those_of_a_naive_search(gpt2):
    """The other text goes on with the beam's tokens; in the reference it goes on with those of another beam."""
    prompt, scale = texts(1, 6), 2.0

    def logs(rows):
        return gpt2.reference(torch.tensor(rows), use_cache=False).logits[:, -1].log_softmax(-1)

    def read(rows):
        with torch.no_grad():
            mine, other = logs(rows), logs([row[5:] for row in rows])
            return scale * (mine - other) + other

    found = [search(read, prompt[0].tolist(), beams=3, new=NEW, eos=[20], pad=PAD)]
    sequences, scores, _ = laid_out(found, prompt, give=3, width=3, pad=PAD)
    options = {**OPTIONS, "guidance_scale": scale, "num_beams": 3, "num_return_sequences": 3, "eos_token_id": 20}
    got = ours(gpt2, prompt, **options)
    np.testing.assert_array_equal(got.sequences, sequences)
    close(got.sequences_scores, scores, tolerance=1e-4)


BAD = {
    "no scale": ({"negative_prompt_ids": texts(2, 3)}, "negative_prompt_ids guide nothing without guidance_scale"),
    "scale 1": ({"negative_prompt_ids": texts(2, 3), "guidance_scale": 1}, "guide nothing"),
    "rows": ({"negative_prompt_ids": texts(3, 3), "guidance_scale": 2.0}, "row for each of the 2 prompts, got 3"),
    "ids": ({"negative_prompt_ids": texts(2, 3) + 60, "guidance_scale": 2.0}, "negative_prompt_ids holds ids from"),
    "long": ({"negative_prompt_ids": texts(2, 90), "guidance_scale": 2.0}, "a prompt of 90 tokens and 12 new ones"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_guidance_is_refused_by_name(name, gpt2):
    options, message = BAD[name]
    before = recompiles.compiled()
    with pytest.raises(ValueError, match=message):
        ours(gpt2, texts(2, 6), **options, **OPTIONS)
    assert recompiles.compiled() == before
