"""Train a GPT-2 by policy gradient: it samples answers, scores them and is updated in one compiled program.

What:      the model is given random letters and has to repeat them. It never sees an answer, only a reward for its
           own: the share of letters that are in their place. REINFORCE (Williams, 1992), where the baseline of an
           answer is the mean reward of the other answers to the same prompt (Kool et al., 2019)
Command:   jaxmodels run reinforce (--config=reinforce)

`jm.generate` is part of the training step (`make_step`): the parameters never leave the device between sampling and
update, and nothing compiles twice.

All output goes to --workdir. If a run is killed, the same command resumes it from the last checkpoint and reaches the
same losses. For a complete run, the command prints the result again; --fresh starts over.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import FrozenConfigDict

import jaxmodels as jm
from jaxmodels.training import TrainState, abstract_state, init_state

from . import command, loop
from .data.published import no_data
from .metrics import read
from .optimizer import make_optimizer
from .report import print0, print_model

PAD, EOS, FIRST_LETTER = 0, 1, 2

Metrics = dict[str, jax.Array]


class Prompts:
    """The prompts of a run, int [B,T] per batch, as a random-access data source for grain.

    Batch i depends on i and the seed only. Test batches have another seed than any training batch.
    """

    def __init__(self, config: FrozenConfigDict):
        self._config = config

    def __len__(self) -> int:
        return self._config.steps

    def __getitem__(self, number: int) -> np.ndarray:
        return self._draw([self._config.seed, int(number)])

    def test(self) -> np.ndarray:
        """Return a batch of test prompts, the same in every run."""
        return self._draw([0])

    def iterator(self) -> grain.DatasetIterator:
        """Iterate over the batches in order; the state of the iterator, its position, can be saved and restored."""
        return iter(grain.MapDataset.source(self).to_iter_dataset())

    def _draw(self, seed: list[int]) -> np.ndarray:
        shape = (self._config.prompts, self._config.length)
        return np.random.default_rng(seed).integers(0, self._config.letters, shape, dtype=np.int32) + FIRST_LETTER


def reward(prompts: jax.Array, answers: jax.Array) -> jax.Array:
    """Return the share of letters in their place, float32 [N], of answers [N,M] to prompts [N,T], M > T."""
    return (answers[:, : prompts.shape[1]] == prompts).mean(axis=1)


def advantages(rewards: jax.Array) -> jax.Array:
    """Return rewards [B,K] minus the mean reward of the other K-1 answers to the same prompt."""
    others = (rewards.sum(axis=1, keepdims=True) - rewards) / (rewards.shape[1] - 1)
    return rewards - others


def log_probability(
    model: jm.GPT2LMHeadModel, params: dict, output: jm.GenerateOutput, prompt_length: int
) -> jax.Array:
    """Return the log-probability of each answer, float32 [N], by one forward pass over prompts and answers."""
    logits = model.apply({"params": params}, output.sequences[:, :-1]).logits
    answers = output.sequences[:, prompt_length:]
    log_probs = -optax.softmax_cross_entropy_with_integer_labels(logits[:, prompt_length - 1 :], answers)
    return jnp.where(jnp.arange(answers.shape[1]) < output.lengths[:, None], log_probs, 0.0).sum(axis=1)


def make_step(
    model: jm.GPT2LMHeadModel, optimizer: optax.GradientTransformation, samples: int
) -> Callable[[TrainState, jax.Array, jax.Array], tuple[TrainState, Metrics]]:
    """Return the compiled step (state, prompts int [B,T], key) -> (state, metrics); `samples` answers per prompt."""

    @partial(jax.jit, donate_argnums=0)
    def step(state: TrainState, prompts: jax.Array, key: jax.Array) -> tuple[TrainState, Metrics]:
        batch, length = prompts.shape
        output = jm.generate(
            model,
            state.params,
            prompts,
            max_new_tokens=length + 1,
            do_sample=True,
            top_k=0,
            num_return_sequences=samples,
            key=jax.random.fold_in(key, state.step),
        )
        rewards = reward(output.sequences[:, :length], output.sequences[:, length:])
        weights = advantages(rewards.reshape(batch, samples)).reshape(-1)

        def loss(params: dict) -> jax.Array:
            return -(weights * log_probability(model, params, output, length)).mean()

        value, gradients = jax.value_and_grad(loss)(state.params)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {"loss": value, "grad_norm": optax.tree.norm(gradients), "skipped": jnp.float32(0)}
        metrics |= {"reward": rewards.mean(), "answer_length": output.lengths.mean()}
        return TrainState(state.step + 1, params, opt_state), metrics

    return step


class Experiment:
    """One run: its config, prompts and model."""

    def __init__(self, config: FrozenConfigDict, folder: Path):
        self.config, self.folder = config, folder
        self.prompts = Prompts(config)
        model_config = jm.GPT2Config(
            **config.model,
            vocab_size=FIRST_LETTER + config.letters,
            n_positions=2 * config.length + 1,
            pad_token_id=PAD,
            bos_token_id=EOS,
            eos_token_id=EOS,
        )
        self.model = jm.GPT2LMHeadModel(model_config)
        self._greedy = jax.jit(partial(_greedy_reward, self.model))

    def train(self) -> dict:
        """Train to the last step, from the last checkpoint if there is one, and return the parameters."""
        config = self.config
        optimizer, schedule = make_optimizer(config)
        return loop.train(
            config,
            self.folder,
            step=make_step(self.model, optimizer, config.samples),
            init_state=lambda: init_state(optimizer, jm.init(self.model, jax.random.key(config.seed))),
            abstract_state=lambda: abstract_state(self.model, optimizer),
            data=self.prompts.iterator(),
            place_batch=jnp.asarray,
            validate=lambda params: {"greedy_reward": self.test(params)},
            schedule=schedule,
            items_per_step=(config.prompts * config.samples, "answers"),
        )

    def test(self, params: dict) -> float:
        """Return the mean reward of greedy decoding on the test prompts."""
        return float(self._greedy(params, self.prompts.test()))


def _greedy_reward(model: jm.GPT2LMHeadModel, params: dict, prompts: jax.Array) -> jax.Array:
    output = jm.generate(model, params, prompts, max_new_tokens=prompts.shape[1] + 1)
    return reward(prompts, output.sequences[:, prompts.shape[1] :]).mean()


@command.run_once
def run(config: FrozenConfigDict, folder: Path) -> dict:
    """Run everything that is not done yet and return the result."""
    experiment = Experiment(config, folder)
    print_model(experiment.model)
    params = experiment.train()
    return {"steps": config.steps, "chance": 1 / config.letters, "greedy_reward": experiment.test(params)}


def show(result: dict, _config: FrozenConfigDict, folder: Path) -> None:
    """Print the result."""
    rewards = [row["reward"] for row in read(folder / "metrics.jsonl") if "reward" in row]
    print0(
        f"\nreward of sampled answers {rewards[0]:.1%} in the first step, {rewards[-1]:.1%} in the last; of greedy "
        f"decoding {result['greedy_reward']:.1%} on test prompts (a random letter {result['chance']:.1%})"
    )
    print0(f"  {folder / 'metrics.jsonl'}")


main = partial(command.launch, run, show, "reinforce", no_data)

if __name__ == "__main__":
    main(sys.argv[1:])
