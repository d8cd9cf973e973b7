"""Policy gradient: reward and baseline, the probability of an answer, and the training step as one program."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import FrozenConfigDict

import jaxmodels as jm
from experiments import reinforce
from experiments.configs import reinforce as config_file
from experiments.metrics import read
from jaxmodels.training import init_state


def small(**changes) -> FrozenConfigDict:
    config = config_file.get_config()
    config.update({"letters": 4, "length": 2, "prompts": 16, "samples": 8, "steps": 60, "log_every": 1, **changes})
    config.model.update({"n_embd": 32, "n_layer": 1, "n_head": 2})
    config.optimizer.warmup = 2
    return FrozenConfigDict(config)


def test_reward_is_the_share_of_letters_in_their_place():
    prompts, answers = jnp.array([[2, 3], [4, 5]]), jnp.array([[2, 3, 1], [5, 5, 3]])
    assert reinforce.reward(prompts, answers).tolist() == [1.0, 0.5]


def test_baseline_is_the_mean_of_the_other_answers():
    found = reinforce.advantages(jnp.array([[1.0, 0.0, 0.5], [0.5, 0.5, 0.5]]))
    np.testing.assert_allclose(found, [[0.75, -0.75, 0.0], [0.0, 0.0, 0.0]])


def test_one_forward_pass_gives_the_probability_that_the_answers_were_sampled_with(tmp_path):
    """As recorded by the decoding loop; some answers end early."""
    experiment = reinforce.Experiment(small(length=4), tmp_path)
    model, prompts = experiment.model, experiment.prompts.test()
    params = jm.init(model, jax.random.key(0))
    sampling = {"do_sample": True, "top_k": 0, "num_return_sequences": 2, "key": jax.random.key(1)}
    output = jm.generate(model, params, prompts, max_new_tokens=5, output_scores=True, **sampling)
    tokens = jm.compute_transition_scores(output.sequences, output.scores, normalize_logits=True)
    counted = np.arange(5) < np.asarray(output.lengths)[:, None]
    expected = np.where(counted, tokens, 0.0).sum(axis=1)
    assert len(set(output.lengths.tolist())) > 2
    actual = jax.jit(lambda params, output: reinforce.log_probability(model, params, output, 4))(params, output)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_reward_rises_and_the_step_compiles_once(tmp_path):
    config = small()
    experiment, optimizer = reinforce.Experiment(config, tmp_path), optax.adam(1e-2)
    step = reinforce.make_step(experiment.model, optimizer, config.samples)
    state, rewards = init_state(optimizer, jm.init(experiment.model, jax.random.key(0))), []
    for number in range(config.steps):
        state, metrics = step(state, experiment.prompts[number], jax.random.key(0))
        rewards.append(float(metrics["reward"]))
    assert np.mean(rewards[:5]) < 0.4 and np.mean(rewards[-5:]) > 0.8
    assert step._cache_size() == 1 and int(state.step) == config.steps


@pytest.mark.slow
def test_experiment_with_a_tiny_config(tmp_path, capsys):
    config = small(steps=6, save_every=3, eval_every=3)
    result = reinforce.run(config, tmp_path)
    rows = [row for row in read(tmp_path / "metrics.jsonl") if "reward" in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6] and result["chance"] == 0.25
    assert json.loads((tmp_path / "result.json").read_text()) == result
    reinforce.show(result, config, tmp_path)
    output = capsys.readouterr().out
    assert f"reward of sampled answers {rows[0]['reward']:.1%} in the first step" in output
    assert "a random letter 25.0%" in output
