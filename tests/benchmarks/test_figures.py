"""The statistics behind the tables."""

import math

import pytest

from benchmarks.figures import agreement, ratio, ratios, share


def test_ratio_is_taken_round_by_round():
    # The machine was three times as slow in the second round and ten times in the third, for both alike.
    assert ratio([2.0, 6.0, 30.0], [1.0, 3.0, 10.0]) == 2.0
    # The medians alone would say 1.0.
    assert ratio([1.0, 4.0, 9.0], [4.0, 1.0, 3.0]) == 3.0


def test_ratio_needs_the_same_rounds():
    for theirs, ours in (([1.0, 2.0], [1.0]), ([], [])):
        with pytest.raises(ValueError, match="the same number of rounds"):
            ratio(theirs, ours)


def test_ratios_above_one_mean_faster():
    seconds = {"ours": [1.0, 1.0], "theirs": [4.0, 4.0]}
    assert ratios(seconds, "ours") == {"ours": 1.0, "theirs": 4.0}
    assert ratios(seconds, "theirs") == {"ours": 0.25, "theirs": 1.0}


def test_share_uses_the_limit_of_its_own_round():
    # 10 GB at 20, 10 and 5 GB/s take at least 0.5, 1 and 2 s.
    assert share(10.0, [1.0, 2.0, 4.0], [20.0, 10.0, 5.0]) == 0.5


def test_token_agreement_is_exact_and_reports_the_position():
    assert agreement([1, 2, 3, 4], [1, 2, 3, 4], width=2) is None
    assert agreement([1, 2, 3, 5], [1, 2, 3, 4], width=2) == "sequence 1 differs from token 1 on"
    assert agreement([1, 2], [1, 2, 3, 4], width=2) == "2 values instead of 4"


def test_number_agreement_is_relative_to_the_largest():
    assert agreement([100.0, 0.09], [100.0, 0.0], width=None) is None
    assert agreement([100.0, 0.11], [100.0, 0.0], width=None) == "off by up to 1.1e-01 where the largest is 1.0e+02"
    assert agreement([0.0], [0.0], width=None) is None
    for values, reference in (([math.nan, 1.0], [1.0, 1.0]), ([1.0, math.nan], [1.0, 1.0]), ([1.0], [math.nan])):
        assert agreement(values, reference, width=None) is not None
