"""Vectors of questions and of their passages, by DPR's two encoders (Karpukhin et al. 2020, arXiv:2004.04906)."""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import FrozenConfigDict

import jaxmodels as jm
from jaxmodels.tokenization.base import Tokenizer
from jaxmodels.training import Trainable, make_contrastive_step

from ..data.buckets import Examples
from ..data.pairs import Tokens, tokenize_passages, tokenize_questions
from ..data.passages import passage, passages
from ..data.retrieval import Collection, Question
from ..loop import Sharding, TrainStep
from ..predict import Batch, Predict, Predictions
from ..retrieval.biencoder import (
    BiEncoder,
    load_biencoder,
    load_saved_biencoder,
    save_biencoder,
    training_vectors,
)
from ..retrieval.bm25 import BM25, mine_hard_negatives
from .common import Scores
from .from_tables import TableTask

KS = (1, 5, 20, 100)


class QuestionsWithPassages:
    """Questions with their positive passage and some negative ones, as `Examples`.

    Attributes:
      lengths: Number of tokens of the longest passage of each question, int [n].
    """

    def __init__(
        self, questions: Sequence[Question], asked: Tokens, passages: Tokens, negatives: int, seed: int | None
    ):
        """Create examples.

        Args:
          questions: The questions; those without negative passages get positive ones of other questions.
          asked: The questions' tokens.
          passages: The tokens of all passages.
          negatives: Number of negative passages of each question.
          seed: Seed by which negatives are drawn in each epoch; None to take the first ones.
        """
        self._questions, self._asked, self._passages = questions, asked, passages
        self._negatives, self._seed = negatives, seed
        self._positives = sorted({question.positives[0] for question in questions})
        longest = int(passages.lengths[self._positives].max())
        self.lengths = np.array([self._length(question, longest) for question in questions])

    def batch(self, indices: np.ndarray, length: int, epoch: int = 0) -> dict[str, np.ndarray]:
        """Return question_* [B,Tq], context_* [B,1+negatives,length] and passages, int32 [B,1+negatives]."""
        chosen = np.array([self.candidates(index, epoch) for index in indices.tolist()], np.int32)
        return {
            **{f"question_{name}": array for name, array in self._asked.take(indices).items()},
            **{f"context_{name}": array for name, array in self._passages.take(chosen, length).items()},
            "passages": chosen,
        }

    def candidates(self, index: int, epoch: int = 0) -> list[int]:
        """Return the positive passage of a question, and its negatives."""
        question, count = self._questions[index], self._negatives
        pool = question.negatives or [each for each in self._positives if each not in question.positives]
        pool = pool or self._positives
        if self._seed is None:
            return [question.positives[0], *np.resize(pool, count).tolist()]
        random = np.random.default_rng([self._seed, epoch, index])
        return [question.positives[0], *random.choice(pool, count, replace=len(pool) < count).tolist()]

    def _length(self, question: Question, longest: int) -> int:
        """Return the tokens of the longest passage that the question may come with."""
        if not self._negatives:
            return int(self._passages.lengths[question.positives[0]])
        if not question.negatives:
            return longest
        return int(self._passages.lengths[[question.positives[0], *question.negatives]].max())


class DenseRetrieval(TableTask):
    """Columns question, positive (a passage), and optionally negatives (a list of passages).

    Without the column, the negatives are passages that BM25 finds for the question. Scored by the rank of the positive
    passage among all passages of the split: positives, and the first `config.negatives` negatives of each question.
    """

    streams = False
    model_class = jm.DPRContextEncoder
    scores_untrained = True
    score = "MRR"
    tokenizer: jm.BertTokenizer

    @classmethod
    def usage_lines(cls, folder: Path) -> list[str]:
        names = ("context", "question")
        return [
            *(f'{name}, {name[0]}_params = jm.load("{folder / f"{name}_encoder"}")' for name in names),
            f'tokenizer = jm.load_tokenizer("{folder / "context_encoder"}")',
            'passages = jm.embed(context, c_params, tokenizer, ["A title"], ["A passage."])',
            'scores = jm.embed(question, q_params, tokenizer, ["A question?"]) @ passages.T',
        ]

    def load_tokenizer(self, **options: Any) -> Tokenizer:
        return super().load_tokenizer(cls=jm.DPRContextEncoderTokenizer, **options)

    def fields(self) -> dict[str, Any]:
        if self.config.negatives < 0 or self.config.negative_pool < self.config.negatives:
            raise ValueError(
                f"negatives={self.config.negatives} must be at least 0 and at most negative_pool="
                f"{self.config.negative_pool}"
            )
        self._collections = {split: self._collection(split) for split in self.tables}
        self._bm25 = {split: BM25(found.passages) for split, found in self._collections.items()}
        if self.config.negatives and "negatives" not in self.first.columns:
            for split, found in self._collections.items():
                pool = self.config.negative_pool
                found.questions = mine_hard_negatives(self._bm25[split], found.passages, found.questions, [], pool)
        return {}

    def encode(self, split: str, tokenizer: Any) -> QuestionsWithPassages:
        found = self._collections[split]
        asked = tokenize_questions(tokenizer, found.questions, min(self.config.max_question_tokens, self.max_tokens))
        texts = tokenize_passages(tokenizer, found.passages, self.max_tokens)
        seed = self.config.seed if split == "train" else None
        return QuestionsWithPassages(found.questions, asked, texts, self.config.negatives, seed)

    def load(self, config: FrozenConfigDict, sharding: Sharding) -> tuple[BiEncoder, dict]:
        if config.from_scratch:
            raise ValueError("from_scratch: dpr_biencoder starts from a checkpoint; leave it out")
        return load_biencoder(FrozenConfigDict({**config, "start": config.init}), self.tokenizer, sharding)

    def make_step(
        self,
        model: BiEncoder,
        optimizer: optax.GradientTransformation,
        microbatches: int,
        trainable: Trainable | None,
        sharding: Sharding,
    ) -> TrainStep:
        question, context = (partial(training_vectors, model, method) for method in ("questions", "contexts"))
        return make_contrastive_step(
            model, question, context, optimizer, **sharding, microbatches=microbatches, trainable=trainable
        )

    def make_predict(self, model: BiEncoder, sharding: Sharding) -> Predict:
        """Create the function that encodes questions and their passages; the loss is computed by `scores`."""

        def encode(params: Any, batch: Batch) -> list[jax.Array]:
            vectors = []
            for prefix, method in (("question_", "questions"), ("context_", "contexts")):
                part = {name.removeprefix(prefix): array for name, array in batch.items() if name.startswith(prefix)}
                found: Any = model.apply({"params": params}, **part, method=method)
                vectors.append(found.astype(np.float32))
            return vectors

        compiled = jax.jit(encode, out_shardings=NamedSharding(sharding["mesh"], PartitionSpec()))

        def predict(params: Any, batches: Iterable[tuple[np.ndarray, Batch]]) -> Predictions:
            best: dict[int, Any] = {}
            for indices, batch in batches:
                inputs = {name: array for name, array in batch.items() if name != "passages"}
                with jm.sharding.use(**sharding):
                    asked, contexts = jax.device_get(compiled(params, inputs))
                best |= {index: (asked[row], contexts[row]) for row, index in enumerate(indices.tolist())}
            return Predictions(float("nan"), [best[index] for index in range(len(best))])

        return predict

    def scores(self, split: str, predicted: Predictions) -> Scores:
        examples = self.dev if split == "validation" else self.test
        assert isinstance(examples, QuestionsWithPassages)
        chosen = [examples.candidates(index) for index in range(len(predicted.best))]
        vectors = {
            number: vector
            for numbers, (_, contexts) in zip(chosen, predicted.best, strict=True)
            for number, vector in zip(numbers, contexts, strict=True)
        }
        numbers = sorted(vectors)
        place = {number: index for index, number in enumerate(numbers)}
        scores = np.stack([asked for asked, _ in predicted.best]) @ np.stack([vectors[n] for n in numbers]).T
        right = scores[np.arange(len(scores)), [place[first] for first, *_ in chosen]]
        highest = scores.max(axis=1)
        loss = highest + np.log(np.exp(scores - highest[:, None]).sum(axis=1)) - right
        return rank_scores(1 + (scores > right[:, None]).sum(axis=1)) | {"loss": float(loss.mean())}

    def baselines(self) -> dict[str, Scores]:
        """Score BM25; passages beyond the first hundred have no rank."""
        found, bm25 = self._collections[self.test_split], self._bm25[self.test_split]
        ranked = bm25.search([question.text for question in found.questions], max(KS))
        same = ranked == np.array([[question.positives[0]] for question in found.questions])
        ranks = np.where(same.any(axis=1), 1 + same.argmax(axis=1), np.inf)
        return {"BM25": rank_scores(ranks)}

    def describe(self) -> str:
        counts = ", ".join(f"{split}: {len(found.passages):,}" for split, found in self._collections.items())
        return f"{super().describe()}; passages of {counts}"

    def _collection(self, split: str) -> Collection:
        """Return the questions and the distinct passages of a split."""
        table, found = self.tables[split], Collection()
        for row, (text, location) in enumerate(zip(table.texts("question"), table.locations, strict=True)):
            positive = found.add_passage(passage(table.columns["positive"][row], "positive", location))
            others: list[Any] = []
            if "negatives" in table.columns:
                others = passages(table.columns["negatives"][row], "negatives", location)
            negatives = tuple(number for number in map(found.add_passage, others) if number != positive)
            found.questions.append(Question(text, text, (), (positive,), negatives))
        return found

    def save(self, folder: Path, model: BiEncoder, params: dict) -> None:
        save_biencoder(folder, model, params, self.tokenizer)

    def load_saved(self, folder: Path, config: FrozenConfigDict, sharding: Sharding) -> tuple[Any, dict, Examples]:
        tokenizer = jm.load_tokenizer(folder / "context_encoder")
        return *load_saved_biencoder(folder, config.dtype, sharding), self.encoded_test(tokenizer)


def rank_scores(ranks: np.ndarray) -> Scores:
    """Return the mean reciprocal rank, and the share of questions whose passage is among the first k."""
    return {"MRR": float(np.mean(1 / ranks)), **{f"recall@{k}": float(np.mean(ranks <= k)) for k in KS}}
