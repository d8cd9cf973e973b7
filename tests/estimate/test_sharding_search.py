"""The search for a sharding: its arithmetic beside compiled programs, and what it refuses."""

import importlib.util

import optax
import pytest

import jaxmodels as jm
from jaxmodels import estimate

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu, the TPU compiler, is not installed"
)


def found(topology, *, batch, limit, **sizes):
    config = jm.GPT2Config(**{"n_embd": 256, "n_layer": 4, "n_head": 4, "vocab_size": 512, "n_positions": 512, **sizes})
    model = jm.GPT2LMHeadModel(config, dtype="bfloat16")
    return estimate.search(
        model, optax.adamw(1e-4), topology=topology, batch=batch, length=512, limit=limit, prng="rbg"
    )


@pytest.fixture(scope="module")
def ranked():
    return found("v5e:4x4", batch=32, limit=0)


def select(candidates, **wanted):
    return {
        tuple(each.axes.values()): each
        for each in candidates
        if all(getattr(each, name) == value for name, value in wanted.items())
    }


def test_all_meshes_that_divide_heads_and_batch_are_candidates(ranked):
    meshes = select(ranked, remat=False, microbatches=1)
    assert {(16, 1, 1), (1, 16, 1), (4, 4, 1), (1, 4, 4), (2, 2, 4), (8, 1, 2)} <= set(meshes)
    assert all(data * fsdp * model == 16 and model <= 4 for data, fsdp, model in meshes), "four heads"
    assert not any(each.microbatches == 4 and each.axes["data"] * each.axes["fsdp"] == 16 for each in ranked)
    assert [each.seconds for each in ranked] == sorted(each.seconds for each in ranked)


def test_the_arithmetic_orders_what_is_obvious(ranked):
    kept, dots, nothing = (select(ranked, remat=remat, microbatches=1)[4, 4, 1] for remat in (False, "dots", "nothing"))
    assert kept.memory > dots.memory > nothing.memory and kept.compute < dots.compute < nothing.compute
    one = select(ranked, remat=False, microbatches=1)
    assert one[1, 16, 1].memory < one[16, 1, 1].memory, "the state is split"
    assert one[16, 1, 1].network < one[1, 16, 1].network, "gradients are sent, and not parameters twice too"
    parts = select(ranked, remat=False, microbatches=2)
    assert parts[4, 4, 1].memory < one[4, 4, 1].memory and parts[4, 4, 1].network > one[4, 4, 1].network


@pytest.mark.slow
def test_the_best_are_compiled_and_agree_with_the_arithmetic():
    guessed = {
        (tuple(each.axes.values()), each.remat, each.microbatches): each for each in found("v5e:2x2", batch=16, limit=0)
    }
    best, second, *others = found("v5e:2x2", batch=16, limit=2)
    assert best.compiled and second.compiled and not any(each.compiled for each in others)
    assert best.seconds <= second.seconds and len(others) + 2 == len(guessed)
    for each in (best, second):
        before = guessed[tuple(each.axes.values()), each.remat, each.microbatches]
        assert each.compute == pytest.approx(before.compute, rel=0.15)
        assert each.memory == each.compiled.memory


def test_what_cannot_fit_is_an_error():
    with pytest.raises(ValueError, match=r"fits 1 devices with 16 GiB: .* the smallest takes about \d+"):
        found("v5e:1x1", batch=8, limit=1, n_embd=8192, n_layer=48)
