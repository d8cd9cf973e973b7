"""Train a GPT-2 from scratch: tokenizer, training, a checkpoint in Hugging Face format, generated text.

What:      a small GPT-2 on the source code of the Python standard library (30 MB); whole modules are held out
Command:   make demo, which is: jaxmodels run gpt2_lm --config=gpt2_demo

Other data: --config.data.kind=text (or jsonl) --config.data.path=FOLDER. GPT-2 XL on a TPU pod: configs/gpt2_xl_pod.py.

All output goes to --workdir. If a run is killed, the same command resumes it from the last checkpoint and reaches the
same losses. For a complete run, the command prints the result again; --fresh starts over.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import multihost_utils
from ml_collections import FrozenConfigDict

import jaxmodels as jm
from jaxmodels.training import abstract_state, init_state, make_evaluate, make_step, place

from . import baselines, command, loop, report
from .data import batches, published
from .data.packing import Data, prepare
from .loop import mesh_and_rules
from .optimizer import make_optimizer
from .predict import Batch


class Experiment:
    """One run: its config, data and model."""

    def __init__(self, config: FrozenConfigDict, folder: Path):
        self.config, self.folder = config, folder
        self.data: Data = prepare(config, folder, config.model.n_positions)
        self.sharding = mesh_and_rules(config)
        end = self.data.tokenizer.eos_token_id
        model_config = jm.GPT2Config(
            vocab_size=len(self.data.tokenizer), bos_token_id=end, eos_token_id=end, **config.model
        )
        self.model = jm.GPT2LMHeadModel(model_config, dtype=jnp.dtype(config.dtype), remat=config.remat)
        self.evaluate = make_evaluate(self.model, **self.sharding, weight=label_count)

    def train(self) -> dict:
        """Train to the last step, from the last checkpoint if there is one, and return the parameters."""
        config = self.config
        optimizer, schedule = make_optimizer(config)
        return loop.train(
            config,
            self.folder,
            step=make_step(self.model, optimizer, **self.sharding, microbatches=config.microbatches),
            init_state=lambda: init_state(optimizer, jm.init(self.model, jax.random.key(config.seed), **self.sharding)),
            abstract_state=lambda: abstract_state(self.model, optimizer, **self.sharding),
            data=batches.training(self.data.train.tokens, seed=config.seed, **self._shape()),
            place_batch=partial(place, **self.sharding, size=config.batch_size),
            validate=self._log_validation,
            schedule=schedule,
            items_per_step=(config.batch_size * config.model.n_positions, "tokens"),
        )

    def _log_validation(self, params: dict) -> dict[str, float]:
        loss, bits = self.validate(params, self.config.eval_windows)
        return {"validation_loss": loss, "validation_bits_per_byte": bits}

    def validate(self, params: dict, windows: int | None = None) -> tuple[float, float]:
        """Return the loss in nats per token and in bits per byte on (a number of windows of) the held-out text."""
        split = self.data.validation
        loss = self.evaluate(
            params,
            (
                place(batch, **self.sharding, size=self.config.batch_size)
                for batch in batches.validation(split.tokens, limit=windows, **self._shape())
            ),
        )
        return loss, baselines.bits_per_byte(loss, len(split.tokens) - 1, split.bytes)

    def save(self, params: dict) -> float:
        """Save the model and its tokenizer, load the model, and return the largest difference between the logits."""
        folder = self.folder / "model"
        jm.save(folder, self.model, params)
        if jax.process_index() == 0:
            self.data.tokenizer.save_pretrained(folder)
        multihost_utils.sync_global_devices("model")
        model, loaded = jm.load(folder, dtype=self.config.dtype, param_dtype="float32", **self.sharding)
        batch = place(
            next(batches.validation(self.data.validation.tokens, **self._shape())),
            **self.sharding,
            size=self.config.batch_size,
        )

        @partial(jax.jit, static_argnums=0)
        def logits(model, params, ids):
            return model.apply({"params": params}, ids).logits

        with jm.sharding.use(**self.sharding):
            ids = batch["input_ids"]
            before, after = logits(self.model, params, ids), logits(model, loaded, ids)
            return float(jnp.max(jnp.abs(before - after)))

    def compare(self, bits: float) -> dict[str, float]:
        """Return the bits per byte of the held-out text, for this model and for the baselines."""
        train, held, text = self.data.train, self.data.validation, self.data.text
        bigram = baselines.bigram_bits(train.tokens, held.tokens, len(self.data.tokenizer), held.bytes)
        return {
            report.THIS_MODEL: bits,
            "bigram model": bigram,
            "gzip -9": baselines.gzip_bits(text),
            "xz -9e": baselines.xz_bits(text),
        }

    def _shape(self) -> dict[str, Any]:
        return {
            "length": self.config.model.n_positions,
            "batch_size": self.config.batch_size,
            "rows": jm.sharding.addressable_rows(**self.sharding, size=self.config.batch_size),
        }


def label_count(batch: Batch) -> jax.Array:
    """Return the number of predicted tokens in a batch: the model shifts the labels, so the first has no prediction."""
    return jnp.sum(batch["labels"][:, 1:] != batches.IGNORE)


@command.run_once
def run(config: FrozenConfigDict, folder: Path) -> dict:
    """Run everything that is not done yet and return the result."""
    experiment = Experiment(config, folder)
    report.print_setup(experiment.data, experiment.model, config)
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
    """Print the result and text generated by the saved model."""
    report.show(result, folder)
    report.sample(folder / "model", config.sample)


main = partial(command.launch, run, show, "gpt2_demo", published.data_by_kind)

if __name__ == "__main__":
    main(sys.argv[1:])
