"""Lower bounds of the time, computed by hand from the table of devices."""

import dataclasses

import pytest

from jaxmodels.chips import KINDS
from jaxmodels.estimate import Collective, Estimate, Generation

V5E = KINDS["v5e"]
PER_SECOND = int(V5E.bandwidth)
STEP = Estimate(
    topology="v5e:2x2", devices=4, arguments=PER_SECOND, results=PER_SECOND // 2, reused=PER_SECOND // 4,
    temporaries=PER_SECOND, flops=2 * V5E.flops, collectives={"all-reduce": Collective(3, 2**20)},
)  # fmt: skip


def test_memory_counts_aliased_results_once():
    assert STEP.memory == pytest.approx(2.25 * PER_SECOND, abs=2)


def test_the_floor_is_the_larger_of_compute_and_memory():
    """Arguments are read, results written, temporaries both: 1 + 0.5 + 2 seconds, and compute takes 2."""
    assert STEP.floor == pytest.approx((2.0, 3.5)) and STEP.floor.seconds == STEP.floor.memory
    assert STEP.floor.limit == "memory bandwidth"
    busy = dataclasses.replace(STEP, flops=8 * V5E.flops)
    assert busy.floor.seconds == pytest.approx(8.0) and busy.floor.limit == "FLOPs at peak"
    assert "v5e:2x2: 4 devices, " in str(busy) and "at least 8e+03 ms, collectives: 3 all-reduce" in str(busy)


def test_half_a_chip_has_half_its_peak():
    whole = KINDS["tpu7x"]
    half = dataclasses.replace(STEP, topology="tpu7x:2x2x1")
    assert half.floor.compute == STEP.flops / whole.flops and whole.per_chip == 2


def test_the_floor_of_generate_is_the_sum_over_its_tokens():
    """A prefill with 3 s of compute; 4 more tokens with a second of memory each, half of it weights."""
    call = Generation(
        **vars(STEP) | {"flops": 3.4 * V5E.flops}, rows=8, new_tokens=5, weights=PER_SECOND // 2,
        cache=PER_SECOND // 2, token_flops=0.1 * V5E.flops,
    )  # fmt: skip
    assert call.first == pytest.approx((3.0, 0.5)) and call.first.limit == "FLOPs at peak"
    assert call.token == pytest.approx((0.1, 1.0)) and call.token.limit == "memory bandwidth"
    assert call.seconds == pytest.approx(3.0 + 4 * 1.0) and STEP.seconds == STEP.floor.seconds


def test_an_unknown_type_of_tpu_has_no_floor():
    with pytest.raises(ValueError, match="a kind of v4, v5e, v5p, v6e, tpu7x"):
        dataclasses.replace(STEP, topology="v3:2x2").floor  # noqa: B018
