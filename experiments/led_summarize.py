"""Train LED to answer queries about whole meetings with a summary (QMSum), and test it on unseen reports too.

What:      a small, randomly initialised LED (2 + 2 layers of width 128, window 256), trained on the 35 validation
           meetings of QMSum and tested on its 35 test meetings. Query tokens are global; meetings are truncated to
           lengths.source tokens
Command:   jaxmodels run led_summarize --config=led_qmsum_4096 (or led_qmsum_16384) \\
               --config.data.path=QMSum/data/ALL/jsonl --config.data.transfer=mueller-report.jsonl
           (download: see data/published.py)

All output goes to --workdir. If a run is killed, the same command resumes it from the last checkpoint and reaches the
same losses. For a complete run, the command prints the result again; --fresh starts over.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import FrozenConfigDict

import jaxmodels as jm
from jaxmodels.training import abstract_state, init_state, make_evaluate, make_step, place

from . import command, loop
from .data import buckets, published
from .loop import mesh_and_rules
from .optimizer import make_optimizer
from .predict import label_count
from .report import THIS_MODEL
from .summarize import report
from .summarize.attention_map import attention_map
from .summarize.data import Data, Summaries, led_config, prepare
from .summarize.evaluation import extractive_baselines, generate_summaries, rouge_scores


class Experiment:
    """One run: its config, data and model."""

    def __init__(self, config: FrozenConfigDict, folder: Path):
        self.config, self.folder = config, folder
        self.data: Data = prepare(config, folder)
        self.sharding = mesh_and_rules(config)
        self.model = jm.LEDForConditionalGeneration(
            jm.LEDConfig(**led_config(config, self.data.tokenizer)),
            dtype=jnp.dtype(config.dtype),
            remat=config.remat,
            max_global_tokens=config.lengths.query,
        )
        self._evaluate = make_evaluate(self.model, **self.sharding, weight=label_count)

    def train(self) -> dict:
        """Train to the last step, from the last checkpoint if there is one, and return the parameters."""
        config = self.config
        optimizer, schedule = make_optimizer(config)
        validation = self.data.test_tokens.subset(config.eval_requests)
        return loop.train(
            config,
            self.folder,
            step=make_step(
                self.model, optimizer, **self.sharding, microbatches=config.microbatches, weight=label_count
            ),
            init_state=lambda: init_state(optimizer, jm.init(self.model, jax.random.key(config.seed), **self.sharding)),
            abstract_state=lambda: abstract_state(self.model, optimizer, **self.sharding),
            data=buckets.training(self.data.train_tokens, steps=config.steps, seed=config.seed, **self._shape()),
            place_batch=partial(place, **self.sharding, size=config.batch_size),
            validate=lambda params: {"test_loss": self.loss(params, validation)},
            schedule=schedule,
            items_per_step=(config.batch_size * config.lengths.source, "tokens"),
        )

    def loss(self, params: dict, examples: Summaries) -> float:
        """Return the mean loss in nats per token of the summaries."""
        batches = buckets.evaluation(examples, **self._shape())
        return self._evaluate(
            params, (place(batch, **self.sharding, size=self.config.batch_size) for _, batch in batches)
        )

    def losses(self, params: dict) -> dict[str, float]:
        """Return the loss on the test summaries, also with other documents, and by token frequencies."""
        train, test = self.data.train_tokens, self.data.test_tokens
        return {
            "own document": self.loss(params, test),
            "another document": self.loss(params, test.with_other_documents()),
            "token frequencies": report.frequency_loss(train, test, len(self.data.tokenizer)),
        }

    def save(self, params: dict) -> None:
        """Save the model and its tokenizer in Hugging Face format."""
        jm.save(self.folder / "model", self.model, params)
        if jax.process_index() == 0:
            self.data.tokenizer.save_pretrained(self.folder / "model")
        multihost_utils.sync_global_devices("model")

    def scores(self) -> dict:
        """Score summaries of the saved model, on one device, and of the baselines; plot an attention map."""
        data, folder = self.data, self.folder / "model"
        model: Any
        model, params = jm.load(folder, dtype=self.config.dtype, param_dtype="float32")
        tokenizer = jm.load_tokenizer(folder)
        result: dict[str, Any] = {}
        for split, collection, tokens in (
            ("test", data.test, data.test_tokens),
            ("transfer", data.transfer, data.transfer_tokens),
        ):
            written = generate_summaries(model, params, tokenizer, tokens, self.config)
            report.write(self.folder / f"{split}.jsonl", collection, written)
            references = [request.summary for request in collection.requests]
            texts = {THIS_MODEL: written, **extractive_baselines(data.train, collection)}
            result[split] = {name: rouge_scores(summaries, references) for name, summaries in texts.items()}
            result[f"{split}_requests"] = len(references)
        example = data.test_tokens.batch(np.array([0]), self.config.lengths.source)
        attention_map(self.folder / "attention_map.png", model, params, example)
        return result

    def _shape(self) -> dict:
        return {
            "batch_size": self.config.batch_size,
            "buckets": (self.config.lengths.source,),
            "rows": jm.sharding.addressable_rows(**self.sharding, size=self.config.batch_size),
        }


@command.run_once
def run(config: FrozenConfigDict, folder: Path) -> dict:
    """Run everything that is not done yet and return the result."""
    experiment = Experiment(config, folder)
    report.print_setup(experiment.data, experiment.model, config)
    params = experiment.train()
    result = {"steps": config.steps, "source": config.lengths.source, "loss": experiment.losses(params)}
    experiment.save(params)
    if jax.process_index() == 0:
        result |= experiment.scores()
        report.plot(folder, result)
    multihost_utils.sync_global_devices("result")
    return result


def required_data(_config: FrozenConfigDict) -> dict[str, str]:
    return {"data.path": published.QMSUM, "data.transfer": published.REPORTS}


def show(result: dict, _config: FrozenConfigDict, folder: Path) -> None:
    report.show(result, folder)


main = partial(command.launch, run, show, "led_qmsum_4096", required_data)

if __name__ == "__main__":
    main(sys.argv[1:])
