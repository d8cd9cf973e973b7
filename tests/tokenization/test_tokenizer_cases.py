"""The ready-made parity cases, for every tokenizer class that is here (PARITY rows G17, D7, D8, D10, section 8)."""

import json

import numpy as np
import pytest
from tokenizer_cases import assert_equal_outputs, run_case, tokenizer_case_names


@pytest.mark.parametrize("name", tokenizer_case_names())
def test_section_8_tokenizer_case(cases_dir, name):
    folder = cases_dir / name
    case = json.loads((folder / "case.json").read_text())
    with np.load(folder / "outputs.npz") as reference:
        assert_equal_outputs(run_case(folder, case), reference)


def test_section_8_there_are_tokenizer_cases(cases_dir):
    expected = {"gpt2_tokenizer", "gpt2_tokenizer_padding_left"}
    expected |= {"dpr_question_tokenizer", "dpr_reader_tokenizer", "dpr_best_spans_default"}
    assert expected <= set(tokenizer_case_names())
