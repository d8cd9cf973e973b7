"""GPT-2 trained from nothing: tokenizer, training, a checkpoint in Hugging Face's format, generated text.

What:      a small GPT-2 on the Python standard library's own source (30 MB), whole modules held out
Command:   make demo, which is: python -m experiments.gpt2_lm --config=experiments/configs/gpt2_demo.py
Hardware:  two cores of a Zen 4 processor, float32, in part shared with other work
Time:      5:20 to 6:30 in four runs, all with other work on the cores; never timed on a quiet machine
Score:     1.583 bits per byte of held-out text; bigram 1.801, gzip -9 1.635, xz -9e 1.414 (Python 3.11's library);
           the optimizer's settings were tuned on this same held-out text

Other text: --config.data.kind=text (or jsonl) --config.data.path=FOLDER. GPT-2 XL on a TPU pod: configs/gpt2_xl_pod.py.

Everything a run writes is in --workdir. A run that was killed goes on from its last checkpoint when the same command is
given again, and ends with the same losses. A complete run shows its result again; --fresh starts over.
"""

import json
import time
from functools import partial
from pathlib import Path

import grain
import jax
import jax.numpy as jnp
import optax
from absl import app, flags, logging
from jax.experimental import multihost_utils
from ml_collections import FrozenConfigDict, config_flags

import jaxmodels as jm
from experiments import baselines, report
from experiments.data import batches
from experiments.data.prepare import Data, prepare
from experiments.metrics import MetricsLog
from experiments.optimizer import make_optimizer
from experiments.progress import Progress
from experiments.workdir import open_workdir, write_json
from jaxmodels.training import abstract_state, init_state, make_evaluate, make_step, place
from jaxmodels.training.checkpoints import Checkpoints

CONFIG = config_flags.DEFINE_config_file("config", "experiments/configs/gpt2_demo.py", "what is trained, and how")
WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run; default: runs/ and the name of the config file")
FRESH = flags.DEFINE_bool("fresh", False, "delete what an earlier run left in the folder, and start over")


class Experiment:
    """One run: a config, its data, and the model on its mesh."""

    def __init__(self, config: FrozenConfigDict, folder: Path):
        self.config, self.folder = config, folder
        self.data: Data = prepare(config, folder)
        places = config.sharding
        self.mesh = jm.sharding.make_mesh(dict(places.mesh))
        self.rules = {**getattr(jm.sharding, places.table), **places.changes}
        self.here = {"mesh": self.mesh, "rules": self.rules}
        end = self.data.tokenizer.eos_token_id
        facts = jm.GPT2Config(vocab_size=len(self.data.tokenizer), bos_token_id=end, eos_token_id=end, **config.model)
        self.model = jm.GPT2LMHeadModel(facts, dtype=jnp.dtype(config.dtype), remat=config.remat)
        self.evaluate = make_evaluate(self.model, **self.here, weight=label_count)

    def train(self) -> dict:
        """Trains from the last checkpoint on, or from nothing, to the last step; the parameters."""
        config, key = self.config, jax.random.key(self.config.seed)
        optimizer, schedule = make_optimizer(config)
        step = make_step(self.model, optimizer, **self.here, microbatches=config.microbatches)
        data = batches.training(self.data.train.tokens, seed=config.seed, **self._shape())
        with Checkpoints(self.folder / "checkpoints") as checkpoints:
            start = checkpoints.latest or 0
            if start:
                like = abstract_state(self.model, optimizer, **self.here)
                state = checkpoints.restore(like, data=grain.checkpoint.CheckpointRestore(data))
                report.say(f"going on from the checkpoint of step {start}")
            else:
                state = init_state(optimizer, jm.init(self.model, key, **self.here))
            with self._progress(start, schedule) as progress:
                for n in range(start + 1, config.steps + 1):
                    state, metrics = step(state, place(next(data), **self.here), key)
                    progress.add(n, metrics)
                    if n % config.log_every == 0 or n == start + 1:
                        progress.flush()
                    if n % config.eval_every == 0 or n == config.steps:
                        progress.flush()
                        progress.add_validation(n, *self.validate(state.params, config.eval_windows))
                    if n % config.save_every == 0 or n == config.steps:
                        progress.sync()
                        checkpoints.save(n, state, data=grain.checkpoint.CheckpointSave(data))
        return state.params

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

    def _progress(self, start: int, schedule: optax.Schedule) -> Progress:
        log = MetricsLog(self.folder, start) if jax.process_index() == 0 else None
        tokens = self.config.batch_size * self.config.model.n_positions
        return Progress(log, schedule, start=start, steps=self.config.steps, tokens_per_step=tokens)


def label_count(batch: dict) -> jax.Array:
    """Tokens that a batch's loss is the mean over: the model shifts the labels, so the first is never predicted."""
    return jnp.sum(batch["labels"][:, 1:] != batches.IGNORE)


def run(config: FrozenConfigDict, folder: Path) -> dict:
    """Everything that is not done yet, then the result."""
    began = time.perf_counter()
    experiment = Experiment(config, folder)
    report.introduce(experiment.data, experiment.model, config)
    file = folder / "result.json"
    if file.exists():
        report.say("this run is complete; --fresh trains again")
        return json.loads(file.read_text())
    params = experiment.train()
    loss, bits = experiment.validate(params)
    result = {
        "steps": config.steps,
        "validation_loss": loss,
        "bits_per_byte": experiment.compare(bits),
        "logits_after_reload": experiment.save(params),
        "seconds": time.perf_counter() - began,
    }
    if jax.process_index() == 0:
        report.plot(folder, result, experiment.data.train)
        write_json(file, result)
    return result


def main(_):
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # Orbax says a dozen lines per checkpoint at INFO
    config = FrozenConfigDict(CONFIG.value)
    if config.distributed:
        jax.distributed.initialize()
    folder = Path(WORKDIR.value or Path("runs") / Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem)
    if jax.process_index() == 0:
        open_workdir(folder, config, FRESH.value)
    multihost_utils.sync_global_devices("workdir")
    try:
        result = run(config, folder)
    except KeyboardInterrupt:
        raise SystemExit("\nstopped; the same command goes on from the last checkpoint") from None
    if jax.process_index() == 0:
        report.show(result, folder)
        report.sample(folder / "model", config.sample)


if __name__ == "__main__":
    app.run(main)
