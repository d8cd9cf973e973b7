"""In-batch negatives and gradient caching: the gradients of the whole batch in the memory of a chunk."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxmodels as jm
from jaxmodels.parameters import flatten
from jaxmodels.training import (
    contrastive_loss,
    in_batch_loss,
    in_chunks,
    init_state,
    make_contrastive_step,
    place,
)

KEY = jax.random.key(3)
LENGTH = 12


def encoder(dropout: float = 0.0, **facts) -> jm.DPRContextEncoder:
    facts = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40, **facts}
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return jm.DPRContextEncoder(jm.DPRConfig(vocab_size=67, **facts, **rates))


def encoders(model):
    """Returns (question, context) encoders that share their parameters."""

    def vectors(params, ids, key):
        rngs = {"dropout": key} if model.config.hidden_dropout_prob else {}
        return model.apply({"params": params}, ids, rngs=rngs).pooler_output

    def context(params, inputs, key):
        ids = inputs["input_ids"]
        return vectors(params, ids.reshape(-1, ids.shape[-1]), key).reshape(*ids.shape[:2], -1)

    return lambda params, inputs, key: vectors(params, inputs["input_ids"], key), context


def batch(rows: int, negatives: int = 1, length: int = LENGTH) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    contexts = rng.integers(1, 67, (rows, 1 + negatives, length), dtype=np.int32)
    contexts[1, :, length // 2 :] = 0
    return {
        "question_input_ids": rng.integers(1, 67, (rows, length // 2), dtype=np.int32),
        "context_input_ids": contexts,
        "passages": rng.integers(0, 2 * rows, (rows, 1 + negatives), dtype=np.int32),
    }


@pytest.fixture(scope="module")
def params():
    return jax.tree.map(np.asarray, jm.init(encoder(initializer_range=0.2), jax.random.key(0)))


def reference(model, params, data, chunks, key):
    """Loss and gradients without caching: every chunk is encoded with its key, and all are differentiated at once."""
    question, context = encoders(model)

    def loss(params):
        vectors = []
        for encode, name, subkey in zip(
            (question, context), ("question", "context"), jax.random.split(key), strict=True
        ):
            ids, keys = data[f"{name}_input_ids"], jax.random.split(subkey, chunks) if chunks > 1 else [subkey]
            parts = [encode(params, {"input_ids": ids[i::chunks]}, keys[i]) for i in range(chunks)]
            vectors.append(jnp.stack(parts, axis=1).reshape(len(ids), *parts[0].shape[1:]))
        return in_batch_loss(*vectors, data["passages"])[0]

    return jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.parametrize(
    ("chunks", "negatives", "dropout"), [pytest.param(4, 0, 0.0, marks=pytest.mark.slow), (4, 2, 0.3)]
)
def test_cached_gradients_match_plain_gradients(params, chunks, negatives, dropout):
    model, data = encoder(dropout), batch(16, negatives)
    value, gradients = reference(model, params, data, chunks, KEY)
    cached = jax.value_and_grad(contrastive_loss(*encoders(model), chunks), has_aux=True)
    (loss, _), actual = jax.jit(cached)(params, data, KEY)
    assert float(loss) == pytest.approx(float(value), rel=1e-6)
    scale = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(gradients))
    assert scale > 1e-2
    for path, leaf in flatten(actual).items():
        np.testing.assert_allclose(leaf / scale, flatten(gradients)[path] / scale, atol=1e-5, rtol=0, err_msg=path)


def test_chunks_draw_different_dropout_determined_by_the_key(params):
    data, loss = batch(8), contrastive_loss(*encoders(encoder(0.5)), 2)
    loss = jax.jit(loss)
    first = float(loss(params, data, KEY)[0])
    assert float(loss(params, data, KEY)[0]) == first
    assert float(loss(params, data, jax.random.key(4))[0]) != first
    question = in_chunks(encoders(encoder(0.5))[0], 2)
    twice = {"input_ids": np.repeat(data["question_input_ids"][:1], 2, axis=0)}
    vectors = question(params, twice, KEY)
    assert not np.allclose(vectors[0], vectors[1])


def test_loss_and_accuracy_match_a_calculation_by_hand():
    """Two questions, each with a positive and a hard negative; the softmax is written out."""
    scores = np.array([[[3.0, 1.0], [0.0, 2.0]], [[1.0, 5.0], [2.0, -1.0]]])  # [question, row, context]
    contexts = np.eye(4).reshape(2, 2, 4)
    loss, metrics = in_batch_loss(scores.reshape(2, 4), contexts)

    def nats(right, *others):
        return np.log(sum(np.exp([right, *others]))) - right

    assert float(loss) == pytest.approx((nats(3, 1, 0, 2) + nats(2, 1, 5, -1)) / 2, rel=1e-6)
    assert float(metrics["in_batch_accuracy"]) == 0.5
    # The second question's passage is the first one's hard negative, and its own wherever else it stands.
    loss, metrics = in_batch_loss(scores.reshape(2, 4), contexts, np.array([[7, 8], [8, 9]]))
    assert float(loss) == pytest.approx((nats(3, 1, 0, 2) + nats(2, 1, -1)) / 2, rel=1e-6)
    assert float(metrics["in_batch_accuracy"]) == 1.0
    # The first question's hard negative is its passage again.
    loss, _ = in_batch_loss(scores.reshape(2, 4), contexts, np.array([[7, 7], [8, 9]]))
    assert float(loss) == pytest.approx((nats(3, 0, 2) + nats(2, 1, 5, -1)) / 2, rel=1e-6)


OPTIMIZER = optax.sgd(0.1, momentum=0.9)


def two_steps(params, data, model, *, mesh=None, rules=None, microbatches=1):
    where = None if mesh is None else jm.sharding.shardings(model, mesh, rules)
    state = init_state(OPTIMIZER, jax.device_put(params, where))
    here = {"mesh": mesh, "rules": rules}
    step = make_contrastive_step(model, *encoders(model), OPTIMIZER, **here, microbatches=microbatches)
    history = []
    for _ in range(2):
        state, metrics = step(state, data if mesh is None else place(data, mesh, rules), KEY)
        history.append({name: float(value) for name, value in metrics.items()})
    return state, history


@pytest.mark.parametrize(
    ("axes", "table", "microbatches"),
    [
        pytest.param({"data": 8}, "DP", 1, marks=pytest.mark.slow),
        pytest.param({"data": 8}, "DP", 2, marks=pytest.mark.slow),
        ({"data": 4, "model": 2}, "FSDP_TP", 4),
    ],
)
def test_negatives_come_from_all_eight_devices(params, axes, table, microbatches):
    """Eight devices take the same steps as one, also with dropout; negatives per device would give another loss."""
    model, data = encoder(0.1), batch(16)
    one, expected = two_steps(params, data, model, microbatches=microbatches)
    here = {"mesh": jm.sharding.make_mesh(axes), "rules": getattr(jm.sharding, table)}
    eight, history = two_steps(params, data, model, **here, microbatches=microbatches)
    for actual, single in zip(history, expected, strict=True):
        assert set(actual) == {"loss", "in_batch_accuracy", "grad_norm", "skipped"}
        assert actual == pytest.approx(single, rel=1e-5)
    for path, leaf in flatten(eight.params).items():
        np.testing.assert_allclose(leaf, flatten(one.params)[path], rtol=1e-4, atol=2e-6, err_msg=path)
    question, context = encoders(model)
    two = {name: array[:2] for name, array in data.items()}
    assert float(contrastive_loss(question, context)(params, two, KEY)[0]) < expected[0]["loss"] - 0.5


@pytest.mark.slow
def test_batch_512_in_chunks_of_16_needs_the_memory_of_batch_16(params):
    model = encoder(0.1)

    def temporary(rows, microbatches):
        step = make_contrastive_step(model, *encoders(model), OPTIMIZER, microbatches=microbatches)
        compiled = step.lower(init_state(OPTIMIZER, jax.device_put(params)), batch(rows, length=64), KEY).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    small, plain, cached = temporary(16, 1), temporary(512, 1), temporary(512, 32)
    scores_and_vectors = 4 * (512 * 512 * 2 * 4 + 512 * 3 * 32 * 6)
    assert plain > 30 * small
    assert cached < small + scores_and_vectors


def test_invalid_chunks_raise(params):
    model = encoder()
    with pytest.raises(ValueError, match="16 examples do not divide into 3 chunks"):
        contrastive_loss(*encoders(model), 3)(params, batch(16), KEY)
    with pytest.raises(ValueError, match="chunks must be at least 1, got 0"):
        make_contrastive_step(model, *encoders(model), OPTIMIZER, microbatches=0)
    step = make_contrastive_step(model, *encoders(model), OPTIMIZER, microbatches=3)
    with pytest.raises(ValueError, match=r"16 examples does not divide into 3 microbatch\(es\)"):
        step(init_state(OPTIMIZER, jax.device_put(params)), batch(16), KEY)
