"""Which token sequence classification reads (docs/parity.md, G15).

4.57 takes the rightmost token that is not the pad id; 4.37 took the one before the first pad (and the last, where the
first token is a pad). They differ for pads inside the text and at both ends; here the newer rule holds.
"""

import warnings

import numpy as np
import pytest
from support.arrays import close, ids, numbers
from support.reference import actual_output, agree, pair, reference_output

TOKENS = {
    "right_padding": [3, 4, 5, 0, 0],
    "left_padding": [0, 0, 3, 4, 5],
    "pads_inside": [3, 0, 4, 0, 0],
    "pads_at_both_ends": [0, 3, 4, 5, 0],
    "no_padding": [3, 4, 5, 6, 7],
    "only_the_first": [3, 0, 0, 0, 0],
    "only_pads": [0, 0, 0, 0, 0],
}
LAST = {"right_padding": 2, "left_padding": 4, "pads_inside": 2, "pads_at_both_ends": 3, "no_padding": 4}


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    return pair("GPT2ForSequenceClassification", tmp_path_factory.mktemp("pooling"), num_labels=3)


@pytest.mark.parity("G15")
def test_the_token_that_is_read_is_the_reference_s(both):
    agree(both, input_ids=np.array(list(TOKENS.values())))
    out = actual_output(both, input_ids=np.array([TOKENS[name] for name in LAST]), output_hidden_states=True)
    kernel = np.asarray(both.params["score"]["kernel"])
    for row, last in enumerate(LAST.values()):
        np.testing.assert_allclose(out.logits[row], out.hidden_states[-1][row, last] @ kernel, rtol=1e-4, atol=1e-5)


@pytest.mark.parity("G15")
def test_attention_mask_is_not_asked_which_token_is_last(both):
    agree(both, input_ids=ids((2, 5)), attention_mask=np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]))


@pytest.mark.parity("G15")
def test_embeddings_read_the_last_position_with_a_warning(both):
    inputs = {"inputs_embeds": numbers((2, 5, 32))}
    with pytest.warns(UserWarning, match="last position") as caught:
        got = actual_output(both, **inputs)
    assert len(caught) == 1
    close(got.logits, reference_output(both, **inputs).logits)


@pytest.mark.parity("G15")
def test_score_has_no_bias(both):
    assert list(both.params["score"]) == ["kernel"]


@pytest.mark.parity("G15")
def test_without_a_pad_id_one_row_reads_its_last_token_and_more_rows_are_refused(tmp_path):
    both = pair("GPT2ForSequenceClassification", tmp_path, pad_token_id=None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agree(both, input_ids=ids((1, 5)))
        agree(both, inputs_embeds=numbers((1, 5, 32)))
    with pytest.raises(ValueError, match="pad_token_id"):
        both.model.apply({"params": both.params}, ids((2, 5)))


def test_classification_of_choices_is_refused_in_words(both):
    with pytest.raises(ValueError, match=r"reads input_ids \[B,T\]"):
        actual_output(both, input_ids=ids((1, 2, 5)))
