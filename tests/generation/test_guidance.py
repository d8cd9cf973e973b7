"""Classifier-free guidance matches the reference (docs/parity.md, N4; arXiv:2306.17806)."""

import numpy as np
import pytest
import torch
from support.arrays import close
from support.diverse_models import (
    NEVER_GENERATED,
    assert_equal_scores,
    generate,
    padded,
    random_ids,
    reference_generate,
)
from support.naive_beams import as_output, search

from jaxmodels.generation.loop import num_compiled

PAD, NEW = 4, 12
OPTIONS = {"max_new_tokens": NEW, "pad_token_id": PAD, "eos_token_id": NEVER_GENERATED}


@pytest.mark.parity("N4")
def test_guidance_with_the_last_token(gpt2):
    free = np.asarray(generate(gpt2, random_ids(1, 6), **OPTIONS).sequences)
    changed = []
    for scale in (1.5, 3.0, 0.5):
        actual = generate(gpt2, random_ids(1, 6), guidance_scale=scale, output_scores=True, **OPTIONS)
        expected = reference_generate(gpt2, random_ids(1, 6), guidance_scale=scale, **OPTIONS)
        np.testing.assert_array_equal(actual.sequences, expected.sequences)
        assert_equal_scores(actual.scores, expected.scores)
        changed.append(not np.array_equal(actual.sequences, free))
    assert any(changed)


@pytest.mark.parity("N4")
def test_guidance_with_a_negative_prompt_and_other_processors(gpt2):
    options = {**OPTIONS, "guidance_scale": 2.0, "repetition_penalty": 1.5, "no_repeat_ngram_size": 2}
    for length in (5, 6):
        negative = random_ids(1, length, seed=7)
        actual = generate(gpt2, random_ids(1, 6), negative_prompt_ids=negative, output_scores=True, **options)
        expected = reference_generate(gpt2, random_ids(1, 6), negative_prompt_ids=negative, **options)
        np.testing.assert_array_equal(actual.sequences, expected.sequences)
        assert_equal_scores(actual.scores, expected.scores)


@pytest.mark.slow
@pytest.mark.parity("N4")
def test_guidance_in_a_padded_batch(gpt2):
    """In the reference the positions of a padded negative prompt are wrong; here they count its real tokens."""
    ids, mask = padded(random_ids(2, 6), [6, 3], PAD, "left")
    negative, flags = padded(random_ids(2, 5, seed=7), [2, 5], PAD, "left")
    options = {**OPTIONS, "guidance_scale": 2.0}
    batch = generate(
        gpt2, ids, attention_mask=mask, negative_prompt_ids=negative, negative_prompt_attention_mask=flags, **options
    )
    for row, (length, other) in enumerate(((6, 2), (3, 5))):
        single = generate(
            gpt2, ids[row : row + 1, -length:], negative_prompt_ids=negative[row : row + 1, -other:], **options
        )
        np.testing.assert_array_equal(batch.sequences[row, 6:], single.sequences[0, length:])


@pytest.mark.parity("N4")
def test_guided_beams_match_a_naive_search(gpt2):
    """The unconditional sequence continues with the tokens of its beam; in the reference, with those of another one."""
    prompt, scale = random_ids(1, 6), 2.0

    def log_probs(sequences):
        return gpt2.reference(torch.tensor(sequences), use_cache=False).logits[:, -1].log_softmax(-1)

    def logits(sequences):
        with torch.no_grad():
            prompted, free = log_probs(sequences), log_probs([each[5:] for each in sequences])
            return scale * (prompted - free) + free

    found = [search(logits, prompt[0].tolist(), beams=3, new=NEW, eos=[20], pad=PAD)]
    sequences, scores, _ = as_output(found, prompt, num_return=3, width=3, pad=PAD)
    options = {**OPTIONS, "guidance_scale": scale, "num_beams": 3, "num_return_sequences": 3, "eos_token_id": 20}
    actual = generate(gpt2, prompt, **options)
    np.testing.assert_array_equal(actual.sequences, sequences)
    close(actual.sequences_scores, scores, tolerance=1e-4)


BAD = {
    "no scale": ({"negative_prompt_ids": random_ids(2, 3)}, "negative_prompt_ids have no effect without guidance"),
    "scale 1": ({"negative_prompt_ids": random_ids(2, 3), "guidance_scale": 1}, "no effect"),
    "rows": ({"negative_prompt_ids": random_ids(3, 3), "guidance_scale": 2.0}, "one sequence per prompt .2., got 3"),
    "ids": (
        {"negative_prompt_ids": random_ids(2, 3) + 60, "guidance_scale": 2.0},
        "negative_prompt_ids contains ids from",
    ),
    "long": (
        {"negative_prompt_ids": random_ids(2, 90), "guidance_scale": 2.0},
        "a prompt of 90 tokens and 12 new ones",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_invalid_guidance_is_rejected_by_name(name, gpt2):
    options, message = BAD[name]
    before = num_compiled()
    with pytest.raises(ValueError, match=message):
        generate(gpt2, random_ids(2, 6), **options, **OPTIONS)
    assert num_compiled() == before
