"""Dense passage retrieval trained as DPR trains it: two encoders, in-batch and hard negatives, top-k accuracy.

What:      questions and passages of SQuAD 1.1's dev file (2067 passages), a quarter of the articles' questions held out
Command:   python -m experiments.dpr_retrieval --config=experiments/configs/dpr_squad_minilm.py \\
               --config.data.path=dev-v1.1.json (or dpr_squad_scratch; experiments/data/published.py: where it is from)
Hardware:  two virtual cores of an Intel Xeon, float32
Time:      MiniLM: 20:28, with a lot of other work on the cores (20 minutes of one core's time in all)
Score:     2828 test questions whose own passage is among the first k of all 2067, seed 0:
                                     top-1   top-5  top-20 top-100
             BM25                    77.2%   92.6%   96.9%   99.5%
             MiniLM before training  37.2%   62.7%   80.9%   94.1%
             MiniLM, 60 steps of 16  49.2%   75.5%   90.1%   97.7%   (an eighth of an epoch)
           BM25 is not beaten: SQuAD's questions were written with the paragraph in view, in its words. MiniLM was made
           for mean pooling, which DPR does not do, and had seen SQuAD's training questions.

Everything a run writes is in --workdir. A run that was killed goes on from its last checkpoint when the same command is
given again, and ends with the same losses. A complete run shows its result again; --fresh starts over.
"""

import json
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import FrozenConfigDict

import jaxmodels as jm
from experiments import command, loop
from experiments.data import pairs, published
from experiments.data.pairs import Tokens
from experiments.files import write_json
from experiments.optimizer import make_optimizer
from experiments.placement import placement
from experiments.retrieval import report
from experiments.retrieval.answers import KS, accuracies
from experiments.retrieval.biencoder import BiEncoder, parts, training_vectors, vectors
from experiments.retrieval.prepare import Data, prepare
from experiments.retrieval.search import encode, search
from experiments.retrieval.start import begin
from jaxmodels.training import abstract_state, init_state, make_contrastive_step, place

ENCODERS = ("context_encoder", "question_encoder")  # folders of the result
Accuracy = dict[str, dict[str, float]]


class Experiment:
    """One run: a config, its data, and the encoders on their mesh."""

    def __init__(self, config: FrozenConfigDict, folder: Path):
        self.config, self.folder = config, folder
        self.data: Data = prepare(config, folder)
        self.here = placement(config)
        self.model, self.first = begin(config, self.data.tokenizer, self.here)
        self.last: Accuracy | None = None

    def baselines(self) -> dict[str, Accuracy]:
        """What BM25 finds, and what the encoders find before training; computed once in the life of a run."""
        file = self.folder / "baselines.json"
        if not file.exists():
            queries = [question.text for question in self.data.test]
            bm25 = accuracies(self.data.bm25.search(queries, max(KS)), self.data.test, self.data.passages)
            found = {report.BM25: bm25, report.START: self.test(self.first)}
            if jax.process_index() == 0:
                write_json(file, found)
            multihost_utils.sync_global_devices("baselines")
        return json.loads(file.read_text())

    def train(self) -> dict:
        """Trains from the last checkpoint on, or from the beginning, to the last step; the parameters."""
        config, data = self.config, self.data
        optimizer, schedule = make_optimizer(config)
        # A training step takes the parameters' memory over.
        first, self.first = self.first, None
        return loop.train(
            config,
            self.folder,
            step=make_contrastive_step(
                self.model,
                partial(training_vectors, self.model, "questions"),
                partial(training_vectors, self.model, "contexts"),
                optimizer,
                **self.here,
                microbatches=config.microbatches,
            ),
            fresh=lambda: init_state(optimizer, first),
            like=lambda: abstract_state(self.model, optimizer, **self.here),
            data=pairs.training(
                data.train,
                data.train_tokens,
                data.passage_tokens,
                negatives=config.negatives,
                rows=config.batch_size,
                seed=config.seed,
                process=jax.process_index(),
                processes=jax.process_count(),
            ),
            place=partial(place, **self.here),
            validate=self._log_test,
            schedule=schedule,
            work=(config.batch_size, "questions"),
        )

    def test(self, params: dict) -> Accuracy:
        """Top-k accuracies on all test questions, searching all passages."""
        passages = self._encode(self.model, params, "contexts", self.data.passage_tokens)
        queries = self._encode(self.model, params, "questions", self.data.test_tokens)
        return accuracies(search(queries, passages, max(KS)), self.data.test, self.data.passages)

    def save(self, params: dict) -> float:
        """Writes both encoders, each with its tokenizer, reads them back; the largest difference of their vectors."""
        for name, (model, own) in parts(self.model, params).items():
            jm.save(self.folder / name, model, own)
        if jax.process_index() == 0:
            context, question = (self.folder / name for name in ENCODERS)
            self.data.tokenizer.save_pretrained(context)
            jm.load_tokenizer(context, jm.DPRQuestionEncoderTokenizer).save_pretrained(question)
        multihost_utils.sync_global_devices("encoders")
        options = {"dtype": self.config.dtype, "param_dtype": "float32", **self.here}
        (context, c), (question, q) = (jm.load(self.folder / name, **options) for name in ENCODERS)
        after = self._some_vectors(BiEncoder(context, question), {"context": c, "question": q}, saved=True)
        before = self._some_vectors(self.model, params, saved=False)
        return max(float(np.abs(x - y).max()) for x, y in zip(before, after, strict=True))

    def _some_vectors(self, model: BiEncoder, params: dict, *, saved: bool) -> list[np.ndarray]:
        """Vectors of a few passages and questions, with the run's tokenizer or with the saved ones."""
        lengths, some = self.config.lengths, self.config.encode_rows
        context, question = (
            jm.load_tokenizer(self.folder / name) if saved else self.data.tokenizer for name in ENCODERS
        )
        passages = pairs.tokenize_passages(context, self.data.passages[:some], lengths.passage)
        questions = pairs.tokenize_questions(question, self.data.test[:some], lengths.question)
        return [self._encode(model, params, "contexts", passages), self._encode(model, params, "questions", questions)]

    def _encode(self, model: BiEncoder, params: dict, method: str, tokens: Tokens) -> np.ndarray:
        with jm.sharding.use(**self.here):
            return encode(partial(vectors, model, method, params), tokens, rows=self.config.encode_rows, **self.here)

    def _log_test(self, params: dict) -> dict[str, float]:
        self.last = self.test(params)
        return {f"{kind}_top_{k}": share for kind, shares in self.last.items() for k, share in shares.items()}


@command.once
def run(config: FrozenConfigDict, folder: Path) -> dict:
    """Everything that is not done yet, then the result."""
    experiment = Experiment(config, folder)
    report.introduce(experiment.data, experiment.model, config)
    tables = experiment.baselines()
    params = experiment.train()
    result = {
        "steps": config.steps,
        "questions": len(experiment.data.test),
        # A run that was killed after its last step comes here without a test.
        "accuracy": {**tables, report.OURS: experiment.last or experiment.test(params)},
        "vectors_after_reload": experiment.save(params),
    }
    if jax.process_index() == 0:
        report.plot(folder, result)
    return result


def show(result: dict, _config: FrozenConfigDict, folder: Path) -> None:
    report.show(result, folder)


if __name__ == "__main__":
    command.start(run, show, "experiments/configs/dpr_squad_scratch.py", published.of_kind)
