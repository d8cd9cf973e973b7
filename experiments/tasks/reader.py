"""DPR's reader: the passage with the answer, and the answer in it (Karpukhin et al. 2020, section 6.1)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import FrozenConfigDict

import jaxmodels as jm
from jaxmodels.layers.losses import cross_entropy
from jaxmodels.outputs import Output

from ..data.batches import IGNORE
from ..data.buckets import IGNORED, Examples
from ..data.passages import answers, passages
from ..data.retrieval import Passage
from ..loop import Sharding
from ..predict import Predictions
from .common import Scores
from .from_tables import TableTask
from .question_answering import squad_scores

MAX_SPANS = 10  # places of the answers in a passage that are trained on, as in DPR


class ReaderOutput(Output):
    """start_logits, end_logits [B,P,T], relevance_logits [B,P], float32; those of padding are -inf."""

    loss: jax.Array
    start_logits: jax.Array
    end_logits: jax.Array
    relevance_logits: jax.Array


class TrainedReader(nn.Module):
    """A reader over the passages of several questions, with its loss; parameters {"reader": ...}."""

    reader: jm.DPRReader

    def __call__(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array,
        labels: jax.Array,
        start_positions: jax.Array,
        end_positions: jax.Array,
    ) -> ReaderOutput:
        """Read passages.

        Args:
          input_ids: int [B,P,T], question, title and text.
          attention_mask: int [B,P,T]; a row with one token only pads the passages.
          labels: int [B], the passage with the answer, -100 for none.
          start_positions: int [B,A], first tokens of the answers in this passage, padded with large numbers.
          end_positions: int [B,A], last tokens.
        """
        b, p, t = input_ids.shape
        out = self.reader(input_ids.reshape(-1, t), attention_mask=attention_mask.reshape(-1, t))
        start, end = (
            jnp.where(attention_mask == 1, logits.reshape(b, p, t), -jnp.inf)
            for logits in (out.start_logits, out.end_logits)
        )
        is_passage = attention_mask.sum(axis=-1) > 1
        relevance = jnp.where(is_passage, out.relevance_logits.reshape(b, p), -jnp.inf)
        loss = cross_entropy(relevance, labels) + span_likelihood_loss(
            start, end, labels, start_positions, end_positions
        )
        return ReaderOutput(loss=loss, start_logits=start, end_logits=end, relevance_logits=relevance)

    def dummy_inputs(self) -> dict[str, jax.Array]:
        """Return the smallest inputs that use every parameter, for initialisation."""
        ids, spans = jnp.ones((1, 1, 2), jnp.int32), jnp.zeros((1, 1), jnp.int32)
        return {"input_ids": ids, "attention_mask": ids, "labels": spans[0]} | {
            name: spans for name in ("start_positions", "end_positions")
        }


def span_likelihood_loss(
    start: jax.Array, end: jax.Array, labels: jax.Array, start_positions: jax.Array, end_positions: jax.Array
) -> jax.Array:
    """Compute minus the log of the probability of all places of the answers, the mean over questions with a passage."""
    tokens, known = start.shape[-1], labels != IGNORE
    chosen = jnp.where(known, labels, 0)[:, None, None]

    def log_probability(logits: jax.Array, positions: jax.Array) -> jax.Array:
        of_passage = jax.nn.log_softmax(jnp.take_along_axis(logits, chosen, axis=1)[:, 0])
        return jnp.take_along_axis(of_passage, jnp.clip(positions, 0, tokens - 1), axis=1)

    spans = log_probability(start, start_positions) + log_probability(end, end_positions)
    likelihood = jax.nn.logsumexp(spans, axis=1, where=start_positions < tokens)
    return -jnp.where(known, likelihood, 0.0).sum() / known.sum()


class ReaderQuestions:
    """Questions with their passages and answers, as `Examples`.

    Attributes:
      lengths: Number of tokens of the longest passage of each question, int [n].
      ids: Tokens of question and passage, for each question and each of its passages.
    """

    def __init__(self, ids: Sequence[Sequence[Any]], spans: Sequence[Sequence[list]], count: int, seed: int | None):
        """Create examples.

        Args:
          ids: Tokens by question and passage.
          spans: (first, last) token of each answer, by question and passage.
          count: Number of passages of each question in a batch.
          seed: Seed by which one passage with an answer and others without are drawn; None for the first `count`.
        """
        self.ids, self._spans, self._count, self._seed = ids, spans, count, seed
        self.lengths = np.array([max(map(len, each)) for each in ids])

    def batch(self, indices: np.ndarray, length: int, epoch: int = 0) -> dict[str, np.ndarray]:
        """Return the arguments of `TrainedReader`."""
        size, count = len(indices), self._count
        ids = np.zeros((size, count, length), np.int32)
        mask = np.zeros_like(ids)
        mask[:, :, 0] = 1
        labels = np.full(size, IGNORE, np.int32)
        spans = {n: np.full((size, MAX_SPANS), IGNORED[n], np.int32) for n in ("start_positions", "end_positions")}
        for row, index in enumerate(indices.tolist()):
            for place, number in enumerate(self._chosen(index, epoch)):
                tokens = self.ids[index][number]
                ids[row, place, : len(tokens)], mask[row, place, : len(tokens)] = tokens, 1
                found = self._spans[index][number][:MAX_SPANS]
                if found and labels[row] == IGNORE:
                    labels[row] = place
                    for values, positions in zip(spans.values(), zip(*found, strict=True), strict=True):
                        values[row, : len(positions)] = positions
        return {"input_ids": ids, "attention_mask": mask, "labels": labels, **spans}

    def _chosen(self, index: int, epoch: int) -> list[int]:
        numbers = range(len(self.ids[index]))
        if self._seed is None:
            return list(numbers[: self._count])
        random = np.random.default_rng([self._seed, epoch, index])
        right, wrong = ([n for n in numbers if bool(self._spans[index][n]) == has] for has in (True, False))
        return [int(random.choice(right)), *random.permutation(wrong)[: self._count - 1].tolist()]


class Reader(TableTask):
    """Columns question, passages (a list) and answers (a text, a list of texts, or SQuAD's object).

    A passage with one of the answers is a positive one. In training, each question comes with a random positive passage
    and `config.passages` - 1 others; training questions without a positive passage are left out. In evaluation the
    first `config.passages` ones are read.
    """

    model_class = jm.DPRReader
    streams = False
    score = "exact match"
    tokenizer: jm.DPRReaderTokenizer
    usage = 'jm.answer(model, params, tokenizer, ["Who ran?"], [[("A title", "Ada ran.")]])'

    def load_tokenizer(self, **options: Any) -> Any:
        return super().load_tokenizer(cls=jm.DPRReaderTokenizer, **options)

    def fields(self) -> dict[str, Any]:
        if self.config.passages < 1:
            raise ValueError(f"passages must be at least 1, got {self.config.passages}")
        self._passages = {split: self._lists(split) for split in self.tables}
        self._answers = {
            split: [
                answers(value, location)
                for value, location in zip(table.columns["answers"], table.locations, strict=True)
            ]
            for split, table in self.tables.items()
        }
        return {}

    def _lists(self, split: str) -> list[list[Passage]]:
        table = self.tables[split]
        rows = zip(table.columns["passages"], table.locations, strict=True)
        found = [passages(value, "passages", location) for value, location in rows]
        for each, location in zip(found, table.locations, strict=True):
            if not each:
                raise ValueError(f"{location}: passages has no passage")
        return found

    def encode(self, split: str, tokenizer: Any) -> ReaderQuestions:
        ids, spans = [], []
        rows = zip(self.tables[split].texts("question"), self._passages[split], self._answers[split], strict=True)
        for question, found, correct in rows:
            titles, texts = map(list, zip(*found, strict=True))
            encoded = tokenizer(question, titles, texts, truncation=True, max_length=self.max_tokens)["input_ids"]
            wanted = [list(tokenizer(answer, add_special_tokens=False)["input_ids"]) for answer in correct]
            places = [_places(list(tokens), wanted, tokenizer.sep_token_id) for tokens in encoded]
            if split == "train" and not any(places):
                continue
            ids.append(encoded)
            spans.append(places)
        if not ids:
            raise ValueError(f"{self.tables[split].source}: no passage has an answer to its question")
        return ReaderQuestions(ids, spans, self.config.passages, self.config.seed if split == "train" else None)

    def load(self, config: FrozenConfigDict, sharding: Sharding) -> tuple[Any, dict | None]:
        model, params = super().load(config, sharding)
        return TrainedReader(model), None if params is None else {"reader": params}

    def keep(self, output: Any) -> Any:
        return output.start_logits, output.end_logits, output.relevance_logits

    def scores(self, split: str, predicted: Predictions) -> Scores:
        examples = self.dev if split == "validation" else self.test
        assert isinstance(examples, ReaderQuestions)
        found = [self._best(ids, logits) for ids, logits in zip(examples.ids, predicted.best, strict=True)]
        return squad_scores(found, self._answers[split])

    def _best(self, ids: Sequence[Any], logits: tuple[np.ndarray, np.ndarray, np.ndarray]) -> str:
        """Return the best answer in the most relevant passage."""
        start, end, relevance = logits
        best = int(relevance.argmax())
        tokens = ids[best]
        (answer,) = self.tokenizer.decode_best_spans(
            {"input_ids": [tokens]},
            (start[best : best + 1, : len(tokens)], end[best : best + 1, : len(tokens)], relevance[best : best + 1]),
            num_spans=1,
            max_answer_length=self.config.max_answer_tokens,
        )
        return answer.text

    def baselines(self) -> dict[str, Scores]:
        """Score the first words of the first passage, as many as answers have on average."""
        split = self.test_split
        words = max(round(np.mean([len(text.split()) for each in self._answers["train"] for text in each])), 1)
        found = [" ".join(first.text.split()[:words]) for first, *_ in self._passages[split]]
        return {f"first {words} words": squad_scores(found, self._answers[split])}

    def save(self, folder: Path, model: TrainedReader, params: dict) -> None:
        super().save(folder, model.reader, params["reader"])

    def load_saved(self, folder: Path, config: FrozenConfigDict, sharding: Sharding) -> tuple[Any, dict, Examples]:
        model, params, examples = super().load_saved(folder, config, sharding)
        return TrainedReader(model), {"reader": params}, examples


def _places(tokens: list[int], answers: list[list[int]], separator: int) -> list[tuple[int, int]]:
    """Return the first and last tokens of the answers in the text of a passage, after the title."""
    if tokens.count(separator) < 2:
        return []
    begin = tokens.index(separator, tokens.index(separator) + 1) + 1
    return sorted(
        {
            (first, first + len(answer) - 1)
            for answer in answers
            for first in range(begin, len(tokens) - len(answer) + 1)
            if answer and tokens[first : first + len(answer)] == answer
        }
    )
