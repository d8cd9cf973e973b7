"""LED trained to answer queries about whole meetings with a summary (QMSum), and tried on reports it never saw.

What:      a small LED (2 + 2 layers of 128, window 256) from random numbers on QMSum's 35 validation meetings, tested
           on its 35 test meetings. The query's tokens are global; meetings are cut to lengths.source tokens
Command:   python -m experiments.led_summarize --config=experiments/configs/led_qmsum_4096.py (or led_qmsum_16384) \\
               --config.data.path=QMSum/data/ALL/jsonl --config.data.transfer=mueller-report.jsonl
           (experiments/data/published.py says where they are public)
Score:     ROUGE-1/2/L, 4,096 tokens, 160 steps of 2 (1.2 epochs): 0.056/0.000/0.056; 16,384 tokens, 60 steps of 1 (0.2
           epochs): 0.060/0.000/0.060. Summary of a similar query 0.256/0.044/0.166, BM25's turns 0.215/0.042/0.140. So
           short a training from nothing learns how often words come and no more ("the the the"): loss per token of the
           test summaries 6.894 and 7.065, by token frequencies 6.782. It shows that the lengths train, not a summarizer
Time:      3 minutes of training at 4,096 tokens (8,300 tokens/s), 5 at 16,384 (5,000 tokens/s), two cores shared

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
from experiments import command, loop
from experiments.data import buckets, published
from experiments.optimizer import make_optimizer
from experiments.placement import placement
from experiments.predict import label_count
from experiments.report import OURS
from experiments.summarize import report
from experiments.summarize.attention_map import attention_map
from experiments.summarize.baselines import extracts
from experiments.summarize.examples import Summaries
from experiments.summarize.generate import write_summaries
from experiments.summarize.prepare import Data, facts, prepare
from experiments.summarize.rouge import rouge
from jaxmodels.training import abstract_state, init_state, make_evaluate, make_step, place


class Experiment:
    """One run: a config, its data, and the model on its mesh."""

    def __init__(self, config: FrozenConfigDict, folder: Path):
        self.config, self.folder = config, folder
        self.data: Data = prepare(config, folder)
        self.here = placement(config)
        self.model = jm.LEDForConditionalGeneration(
            jm.LEDConfig(**facts(config, self.data.tokenizer)),
            dtype=jnp.dtype(config.dtype),
            remat=config.remat,
            max_global_tokens=config.lengths.query,
        )
        self._evaluate = make_evaluate(self.model, **self.here, weight=label_count)

    def train(self) -> dict:
        """Trains from the last checkpoint on, or from nothing, to the last step; the parameters."""
        config = self.config
        optimizer, schedule = make_optimizer(config)
        some = self.data.test_tokens.some(config.eval_requests)
        return loop.train(
            config,
            self.folder,
            step=make_step(self.model, optimizer, **self.here, microbatches=config.microbatches, weight=label_count),
            fresh=lambda: init_state(optimizer, jm.init(self.model, jax.random.key(config.seed), **self.here)),
            like=lambda: abstract_state(self.model, optimizer, **self.here),
            data=buckets.training(self.data.train_tokens, steps=config.steps, seed=config.seed, **self._shape()),
            place=partial(place, **self.here),
            validate=lambda params: {"test_loss": self.loss(params, some)},
            schedule=schedule,
            work=(config.batch_size * config.lengths.source, "tokens"),
        )

    def loss(self, params: dict, examples: Summaries) -> float:
        """Nats per token of the summaries, each given what precedes it."""
        batches = buckets.evaluation(examples, **self._shape())
        return self._evaluate(params, (place(batch, **self.here) for _, batch in batches))

    def losses(self, params: dict) -> dict[str, float]:
        """The loss of the test summaries, and what it is without the document or the model."""
        train, test = self.data.train_tokens, self.data.test_tokens
        return {
            "own document": self.loss(params, test),
            "another document": self.loss(params, test.elsewhere()),
            "token frequencies": report.frequency_loss(train, test, len(self.data.tokenizer)),
        }

    def save(self, params: dict) -> None:
        """Writes the model and its tokenizer in Hugging Face's format."""
        jm.save(self.folder / "model", self.model, params)
        if jax.process_index() == 0:
            self.data.tokenizer.save_pretrained(self.folder / "model")
        multihost_utils.sync_global_devices("model")

    def scores(self) -> dict:
        """What the saved model writes, on one device, beside the baselines; and the picture of its attention."""
        data, folder = self.data, self.folder / "model"
        model, params = jm.load(folder, dtype=self.config.dtype, param_dtype="float32")
        tokenizer = jm.load_tokenizer(folder)
        result = {}
        for side, found, tokens in (
            ("test", data.test, data.test_tokens),
            ("transfer", data.transfer, data.transfer_tokens),
        ):
            written = write_summaries(model, params, tokenizer, tokens, self.config)
            report.write(self.folder / f"{side}.jsonl", found, written)
            references = [request.summary for request in found.requests]
            texts = {OURS: written, **extracts(data.train, found)}
            result[side] = {name: rouge(summaries, references) for name, summaries in texts.items()}
            result[f"{side}_requests"] = len(references)
        example = data.test_tokens.batch([0], self.config.lengths.source)
        attention_map(self.folder / "attention_map.png", model, params, example)
        return result

    def _shape(self) -> dict:
        return {
            "rows": self.config.batch_size,
            "buckets": (self.config.lengths.source,),
            "process": jax.process_index(),
            "processes": jax.process_count(),
        }


@command.once
def run(config: FrozenConfigDict, folder: Path) -> dict:
    """Everything that is not done yet, then the result."""
    experiment = Experiment(config, folder)
    report.introduce(experiment.data, experiment.model, config)
    params = experiment.train()
    result = {"steps": config.steps, "source": config.lengths.source, "loss": experiment.losses(params)}
    experiment.save(params)
    if jax.process_index() == 0:
        result |= experiment.scores()
        report.plot(folder, result)
    multihost_utils.sync_global_devices("result")
    return result


def wanted(_config) -> dict[str, str]:
    return {"data.path": published.QMSUM, "data.transfer": published.REPORTS}


def show(result: dict, _config: FrozenConfigDict, folder: Path) -> None:
    report.show(result, folder)


if __name__ == "__main__":
    command.start(run, show, "experiments/configs/led_qmsum_4096.py", wanted)
