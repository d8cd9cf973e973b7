"""Tokens reach the callback while the compiled loop runs (docs/parity.md, N12)."""

import numpy as np
import pytest

import jaxmodels as jm

IDS = np.random.default_rng(0).integers(4, 61, (3, 7))


@pytest.mark.parity("N12")
def test_the_streamer_gets_every_column_in_order(fresh_gpt2):
    columns = []
    result = jm.generate(*fresh_gpt2, IDS, max_new_tokens=12, streamer=columns.append)
    assert all(isinstance(column, np.ndarray) and column.shape == (3,) for column in columns)
    np.testing.assert_array_equal(np.stack(columns, axis=1), result.sequences[:, 7:])
    np.testing.assert_array_equal(jm.generate(*fresh_gpt2, IDS, max_new_tokens=12).sequences, result.sequences)


@pytest.mark.parity("N12")
def test_tokens_are_streamed_one_by_one(fresh_gpt2):
    """An exception of the callback ends the loop before the next token."""
    seen = []

    def callback(tokens):
        seen.append(tokens)
        if len(seen) == 3:
            raise KeyboardInterrupt("enough")

    with pytest.raises(KeyboardInterrupt, match="enough"):
        jm.generate(*fresh_gpt2, IDS, max_new_tokens=30, eos_token_id=[], streamer=callback)
    assert len(seen) == 3
    # The failed call leaves nothing behind.
    columns = []
    jm.generate(*fresh_gpt2, IDS, max_new_tokens=30, eos_token_id=[], streamer=columns.append)
    assert len(columns) == 30


@pytest.mark.parity("N12")
def test_beams_do_not_stream(fresh_gpt2):
    with pytest.raises(ValueError, match="a streamer needs num_beams=1"):
        jm.generate(*fresh_gpt2, IDS, num_beams=2, max_new_tokens=3, streamer=lambda tokens: None)
