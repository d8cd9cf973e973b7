"""Train a dense passage retriever as in DPR: two encoders, in-batch and hard negatives, top-k accuracy.

What:      questions and passages of the SQuAD 1.1 dev set (2067 passages); the questions of a quarter of the articles
           are held out
Command:   jaxmodels run dpr_retrieval --config=dpr_squad_minilm \\
               --config.data.path=dev-v1.1.json (or dpr_squad_scratch; download: see data/published.py)

All output goes to --workdir. If a run is killed, the same command resumes it from the last checkpoint and reaches the
same losses. For a complete run, the command prints the result again; --fresh starts over.
"""

import json
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import FrozenConfigDict

import jaxmodels as jm
from jaxmodels.training import abstract_state, init_state, make_contrastive_step, place

from . import command, loop
from .data import pairs, published
from .data.pairs import Tokens
from .files import write_json
from .loop import mesh_and_rules
from .optimizer import make_optimizer
from .retrieval import report
from .retrieval.answers import KS, top_k_accuracy
from .retrieval.biencoder import (
    ENCODERS,
    BiEncoder,
    load_biencoder,
    load_saved_biencoder,
    save_biencoder,
    training_vectors,
    vectors,
)
from .retrieval.prepare import Data, prepare
from .retrieval.search import encode, search

Accuracy = dict[str, dict[str, float]]


class Experiment:
    """One run: its config, data and encoders."""

    def __init__(self, config: FrozenConfigDict, folder: Path):
        self.config, self.folder = config, folder
        self.data: Data = prepare(config, folder)
        self.sharding = mesh_and_rules(config)
        self.first: dict | None
        self.model, self.first = load_biencoder(config, self.data.tokenizer, self.sharding)
        self.last: Accuracy | None = None

    def baselines(self) -> dict[str, Accuracy]:
        """Return the accuracy of BM25 and of the encoders before training; computed once per run."""
        file = self.folder / "baselines.json"
        if not file.exists():
            assert self.first is not None, "training has started already"
            queries = [question.text for question in self.data.test]
            bm25 = top_k_accuracy(self.data.bm25.search(queries, max(KS)), self.data.test, self.data.passages)
            found = {report.BM25: bm25, report.START: self.test(self.first)}
            if jax.process_index() == 0:
                write_json(file, found)
            multihost_utils.sync_global_devices("baselines")
        return json.loads(file.read_text())

    def train(self) -> dict:
        """Train to the last step, from the last checkpoint if there is one, and return the parameters."""
        config, data = self.config, self.data
        optimizer, schedule = make_optimizer(config)
        # A training step donates the memory of the parameters.
        first, self.first = self.first, None
        return loop.train(
            config,
            self.folder,
            step=make_contrastive_step(
                self.model,
                partial(training_vectors, self.model, "questions"),
                partial(training_vectors, self.model, "contexts"),
                optimizer,
                **self.sharding,
                microbatches=config.microbatches,
            ),
            init_state=lambda: init_state(optimizer, first),
            abstract_state=lambda: abstract_state(self.model, optimizer, **self.sharding),
            data=pairs.training(
                data.train,
                data.train_tokens,
                data.passage_tokens,
                negatives=config.negatives,
                batch_size=config.batch_size,
                seed=config.seed,
                rows=jm.sharding.addressable_rows(**self.sharding, size=config.batch_size),
            ),
            place_batch=partial(place, **self.sharding, size=config.batch_size),
            validate=self._log_test,
            schedule=schedule,
            items_per_step=(config.batch_size, "questions"),
        )

    def test(self, params: dict) -> Accuracy:
        """Return the top-k accuracy on all test questions, searching all passages."""
        passages = self._encode(self.model, params, "contexts", self.data.passage_tokens)
        queries = self._encode(self.model, params, "questions", self.data.test_tokens)
        return top_k_accuracy(search(queries, passages, max(KS)), self.data.test, self.data.passages)

    def save(self, params: dict) -> float:
        """Save and load both encoders with their tokenizers; return the largest difference between their vectors."""
        save_biencoder(self.folder, self.model, params, self.data.tokenizer)
        loaded = load_saved_biencoder(self.folder, self.config.dtype, self.sharding)
        after = self._some_vectors(*loaded, saved=True)
        before = self._some_vectors(self.model, params, saved=False)
        return max(float(np.abs(x - y).max()) for x, y in zip(before, after, strict=True))

    def _some_vectors(self, model: BiEncoder, params: dict, *, saved: bool) -> list[np.ndarray]:
        """Encode a few passages and questions, with the tokenizer of the run or with the saved ones."""
        lengths, count = self.config.lengths, self.config.encode_rows
        context, question = (
            jm.load_tokenizer(self.folder / name) if saved else self.data.tokenizer for name in ENCODERS
        )
        passages = pairs.tokenize_passages(context, self.data.passages[:count], lengths.passage)
        questions = pairs.tokenize_questions(question, self.data.test[:count], lengths.question)
        return [self._encode(model, params, "contexts", passages), self._encode(model, params, "questions", questions)]

    def _encode(self, model: BiEncoder, params: dict, method: str, tokens: Tokens) -> np.ndarray:
        with jm.sharding.use(**self.sharding):
            return encode(
                partial(vectors, model, method, params), tokens, batch_size=self.config.encode_rows, **self.sharding
            )

    def _log_test(self, params: dict) -> dict[str, float]:
        self.last = self.test(params)
        return {f"{name}_top_{k}": share for name, shares in self.last.items() for k, share in shares.items()}


@command.run_once
def run(config: FrozenConfigDict, folder: Path) -> dict:
    """Run everything that is not done yet and return the result."""
    experiment = Experiment(config, folder)
    report.print_setup(experiment.data, experiment.model, config)
    tables = experiment.baselines()
    params = experiment.train()
    result = {
        "steps": config.steps,
        "questions": len(experiment.data.test),
        # A run that was killed after its last step and then resumed has no test result yet.
        "accuracy": {**tables, report.THIS_MODEL: experiment.last or experiment.test(params)},
        "vectors_after_reload": experiment.save(params),
    }
    if jax.process_index() == 0:
        report.plot(folder, result)
    return result


def show(result: dict, _config: FrozenConfigDict, folder: Path) -> None:
    report.show(result, folder)


main = partial(command.launch, run, show, "dpr_squad_scratch", published.data_by_kind)

if __name__ == "__main__":
    main(sys.argv[1:])
