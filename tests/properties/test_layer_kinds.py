"""Layers that differ in something static, such as a window: one loop over the segment that repeats."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.arrays import ids
from support.tiny import random_params, sizes

import jaxmodels as jm
from jaxmodels.architectures.gpt2 import GPT2Model
from jaxmodels.layers.stack import _segments

WINDOW, LENGTH = 3, 9
B, K = 2, 3


class WindowedModel(GPT2Model):
    """GPT-2 whose every other layer attends to the last WINDOW tokens only."""

    def windows(self):
        return tuple(None if i % 2 else WINDOW for i in range(self.config.n_layer))


class AllWindowedModel(GPT2Model):
    def windows(self):
        return (WINDOW,) * self.config.n_layer


class WindowedLM(jm.GPT2LMHeadModel):
    body = WindowedModel


class AllWindowedLM(jm.GPT2LMHeadModel):
    body = AllWindowedModel


def windowed(cls=WindowedLM, **options):
    run = {name: options.pop(name) for name in ("unroll", "remat") if name in options}
    model = cls(jm.GPT2Config(**{**sizes("GPT2"), "n_layer": 4, "eos_token_id": None, **options}), **run)
    return model, random_params(model, 0)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from("ab"), min_size=1, max_size=12))
def test_segments_are_the_sequence(kinds):
    start, covered = 0, []
    for begin, period, repeats in _segments(kinds):
        assert begin == start and period >= 1 and repeats >= 1
        covered += kinds[begin : begin + period] * repeats
        start += period * repeats
    assert covered == kinds


@pytest.mark.parametrize(
    ("kinds", "segments"),
    [
        ("aaaaaa", [(0, 1, 6)]),
        ("abababab", [(0, 2, 4)]),
        ("aaabbb", [(0, 1, 3), (3, 1, 3)]),
        ("aabaab", [(0, 3, 2)]),
        ("ab", [(0, 1, 1), (1, 1, 1)]),
    ],
)
def test_the_longest_repeating_stretch_is_one_loop(kinds, segments):
    assert list(_segments(list(kinds))) == segments


def test_a_token_is_seen_through_windows_only():
    """Through 4 layers of windows of 3 a token reaches 4 * 2 positions further, and through one full layer all."""
    for cls, reach in ((AllWindowedLM, 4 * (WINDOW - 1)), (WindowedLM, 14)):
        model, params = windowed(cls)
        tokens = ids((1, 14))
        embeds = params["transformer"]["wte"]["embedding"][tokens]

        def last(embeds, model=model, params=params):
            return model.apply({"params": params}, inputs_embeds=embeds).logits[0, -1].sum()

        (reached,) = np.nonzero(np.abs(jax.grad(last)(embeds)).sum(axis=-1)[0])
        np.testing.assert_array_equal(reached, np.arange(max(0, 13 - reach), 14))


@pytest.mark.parametrize("options", [{"unroll": True}, {"remat": True}], ids=str)
def test_scanned_and_unrolled_layers_agree(options):
    model, params = windowed()
    tokens = ids((B, LENGTH))
    wanted = {"output_hidden_states": True, "output_attentions": True, "labels": tokens}

    def call(model):
        return jax.jit(lambda p: model.apply({"params": p}, tokens, **wanted))(params)

    got, expected = call(model.clone(**options)), call(model)
    assert got.keys() == expected.keys() and got.attentions.shape == expected.attentions.shape
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, expected)


def test_a_cache_read_step_by_step_keeps_the_windows():
    model, params = windowed()
    tokens = ids((B, LENGTH))
    whole = jax.jit(lambda: model.apply({"params": params}, tokens).logits)()
    step = jax.jit(lambda cache, part: model.apply({"params": params}, part, cache=cache))
    cache, logits = model.init_cache(B, LENGTH), []
    for part in np.split(tokens, LENGTH, axis=1):
        out = step(cache, part)
        cache = out.cache
        logits.append(out.logits)
    np.testing.assert_allclose(np.concatenate(logits, axis=1), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cls", [WindowedLM, AllWindowedLM])
def test_beams_keep_the_windows(cls):
    """Beams write their slots in turn, so that a window in slots would not be one in tokens."""
    model, params = windowed(cls)
    run = jax.jit(lambda tokens, cache: model.apply({"params": params}, tokens, cache=cache))
    prompt, rng, steps = ids((B, 4)), np.random.default_rng(1), 5
    cache = run(prompt, model.init_cache(B, 4 + K * steps)).cache.expand(K)
    sequences = np.repeat(prompt[:, None], K, axis=1)
    for _ in range(steps):
        parents, tokens = rng.integers(0, K, (B, K)), rng.integers(0, 67, (B, K))
        sequences = np.take_along_axis(sequences, parents[:, :, None], axis=1)
        sequences = np.concatenate([sequences, tokens[:, :, None]], axis=2)
        out = run(tokens, cache.reorder(jnp.asarray(parents)))
        cache = out.cache
        alone = model.apply({"params": params}, sequences.reshape(B * K, -1)).logits[:, -1]
        np.testing.assert_allclose(out.logits, alone.reshape(B, K, -1), rtol=1e-4, atol=1e-5)


def test_beam_search_with_windows_is_that_of_the_sequences_alone():
    model, params = windowed()
    out = jm.generate(model, params, ids((B, 5)), num_beams=K, max_new_tokens=6, output_scores=True)
    logits = jax.nn.log_softmax(model.apply({"params": params}, out.sequences).logits, axis=-1)
    chosen = np.take_along_axis(np.asarray(logits[:, 4:-1]), np.asarray(out.sequences[:, 5:, None]), axis=2)[..., 0]
    np.testing.assert_allclose(out.sequences_scores, chosen.sum(axis=1) / 6, rtol=1e-4, atol=1e-5)


def test_the_program_does_not_grow_with_the_layers():
    def size(layers: int) -> int:
        model, params = windowed(n_layer=layers)
        tokens = ids((B, LENGTH))
        return len(jax.jit(lambda p: model.apply({"params": p}, tokens).logits).lower(params).as_text())

    assert size(16) < 1.02 * size(4)


def test_dropout_and_gradients_of_alternating_layers():
    model, params = windowed(resid_pdrop=0.5)
    tokens = ids((B, LENGTH))

    def loss(params, key):
        return model.apply({"params": params}, tokens, labels=tokens, rngs={"dropout": key}).loss

    values = [float(loss(params, jax.random.key(seed))) for seed in (0, 0, 1)]
    assert values[0] == values[1] != values[2]
    gradients = jax.grad(loss)(params, jax.random.key(0))
    for gradient in jax.tree.leaves(gradients["transformer"]["h"]["layers"]):
        assert np.isfinite(gradient).all() and all(np.abs(layer).sum() > 0 for layer in gradient)
