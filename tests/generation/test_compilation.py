"""What is traced does not compile again."""

import contextlib

import jax
import numpy as np
import pytest

import jaxmodels as jm
from jaxmodels.generation.buckets import bucket
from jaxmodels.generation.decoder_only import _run


@contextlib.contextmanager
def counted():
    """Counts the programs that JAX compiles inside; small ones of eager operations are not decoding loops."""
    seen = []

    def listen(event, duration, **details):
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(details.get("fun_name", ""))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@pytest.fixture(scope="module")
def gpt2():
    config = jm.GPT2Config(
        vocab_size=61, n_positions=128, n_embd=16, n_layer=2, n_head=2, eos_token_id=3, pad_token_id=0
    )
    model = jm.GPT2LMHeadModel(config)
    return model, jm.init(model, jax.random.key(0))


def programs(model, params, calls):
    """How many decoding loops were compiled during the calls."""
    before = _run._cache_size()
    for length, options in calls:
        ids = np.random.default_rng(length).integers(4, 61, (2, length))
        jm.generate(model, params, ids, **options)
    return _run._cache_size() - before


def test_lengths_limits_and_numbers_in_a_bucket_share_one_program(gpt2):
    sampled = {"do_sample": True, "key": jax.random.key(1)}
    warm = [(20, {"max_new_tokens": 20, "temperature": 0.5, "top_k": 7, "top_p": 0.5, **sampled})]
    assert programs(*gpt2, warm) == 1
    others = [
        (length, {"max_new_tokens": 3 + length, "temperature": 0.6 + length / 50, "top_k": 1 + length, **sampled})
        for length in range(1, 29)
    ]
    others = [(length, {**options, "top_p": 0.3 + length / 50}) for length, options in others]
    with counted() as seen:
        assert programs(*gpt2, others) == 0
    assert not [name for name in seen if "_run" in str(name)]


def test_another_bucket_compiles_once(gpt2):
    greedy = {"max_new_tokens": 5}
    assert programs(*gpt2, [(10, greedy)]) == 1
    assert programs(*gpt2, [(12, greedy), (30, greedy), (1, greedy)]) == 0
    assert programs(*gpt2, [(33, greedy), (48, greedy), (40, greedy)]) == 1


def test_another_callback_and_another_key_compile_nothing(gpt2):
    def call(callback, seed):
        options = {"max_new_tokens": 5, "do_sample": True, "streamer": callback, "key": jax.random.key(seed)}
        return programs(*gpt2, [(9, options)])

    assert call(lambda tokens: None, 0) == 1
    assert call(lambda tokens: None, 1) == 0


def test_buckets_cover_and_waste_at_most_half():
    sizes = sorted({bucket(n) for n in range(1, 1025)})
    assert sizes == [32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024]
    assert all(n <= bucket(n) <= max(32, 1.5 * n) for n in range(1, 3000))
