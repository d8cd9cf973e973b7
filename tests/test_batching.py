"""Batches of sequences of similar length."""

import numpy as np
import pytest

import jaxmodels as jm


def test_every_text_is_in_one_batch_that_is_wide_enough_and_no_wider():
    lengths = np.random.default_rng(0).integers(1, 200, 103)
    batches = jm.length_batches(lengths, 16, multiple=32)
    assert sorted(np.concatenate([batch.places for batch in batches])) == list(range(103))
    assert [len(batch.places) for batch in batches] == [16] * 6 + [7]
    for places, width in batches:
        longest = lengths[places].max()
        assert width % 32 == 0 and width - 32 < longest <= width
    widths = [batch.width for batch in batches]
    assert widths == sorted(widths)


def test_texts_of_one_length_keep_their_order():
    (batch,) = jm.length_batches([5, 5, 5], 4, multiple=1)
    assert batch.places.tolist() == [0, 1, 2] and batch.width == 5


def test_no_texts_make_no_batches():
    assert jm.length_batches([], 4) == []


@pytest.mark.parametrize("options", [{"rows": 0}, {"rows": 2, "multiple": 0}], ids=str)
def test_sizes_below_one_are_refused(options):
    with pytest.raises(ValueError, match="at least 1"):
        jm.length_batches([3], **options)
