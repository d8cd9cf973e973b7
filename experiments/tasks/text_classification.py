"""A class, several labels or a number for each text, or for each pair of texts."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxmodels.layers.losses import classification_loss
from jaxmodels.tokenization.base import Tokenizer

from ..data.buckets import LabelledTexts
from ..predict import Batch, Predictions
from .common import Scores
from .from_tables import TableTask, labelled
from .problems import PROBLEMS, problem_type, text_baselines


class TextClassification(TableTask):
    """Columns text, label, and optionally text_pair; see `problems.problem_type` for the kinds of labels."""

    model_class = "AutoModelForSequenceClassification"
    replaces_head = True
    score = "accuracy"
    usage = 'jm.classify(model, params, tokenizer, ["A text."])'

    def fields(self) -> dict[str, Any]:
        # Without training, the problem is that of the checkpoint.
        known = "" if self.trains else self.checkpoint.problem_type
        kind = problem_type(
            self.config.problem_type or known or "", self.config.columns.label, self.first.columns["label"]
        )
        self._problem = PROBLEMS[kind](self)
        # Those of the class are defaults.
        self.score, self.higher_is_better = self._problem.score, self._problem.higher_is_better  # type: ignore[misc]
        return {**self._problem.fields, "problem_type": kind}

    def encode(self, split: str, tokenizer: Tokenizer) -> LabelledTexts:
        table = self.tables[split]
        pairs = table.texts("text_pair") if "text_pair" in table.columns else None
        encoded = tokenizer(table.texts("text"), pairs, truncation=True, max_length=self.max_tokens)
        return labelled(encoded, {"labels": self._problem.labels(split)}, self.config_fields["pad_token_id"])

    def loss(self, output: Any, batch: Batch) -> jax.Array:
        """Return the mean loss of the rows with labels; the loss of the model ignores missing classes only."""
        labels = batch["labels"]
        if not jnp.issubdtype(labels.dtype, jnp.floating):
            return output.loss
        kind, count = self.config_fields["problem_type"], output.logits.shape[-1]

        def row_loss(logits: jax.Array, label: jax.Array) -> jax.Array:
            return classification_loss(logits[None], label[None], kind, count)

        known = ~jnp.isnan(labels).reshape(len(labels), -1).any(axis=1)
        losses = jax.vmap(row_loss)(output.logits, jnp.nan_to_num(labels))
        return jnp.sum(jnp.where(known, losses, 0.0)) / jnp.sum(known)

    def keep(self, output: Any) -> jax.Array:
        return self._problem.keep(output)

    def scores(self, split: str, predicted: Predictions) -> Scores:
        return self._problem.scores(self._problem.labels(split), predicted.best)

    def baselines(self) -> dict[str, Scores]:
        train, test = ((self._texts(split), self._problem.labels(split)) for split in ("train", self.test_split))
        return text_baselines(self._problem.estimators(), self._problem.scores, *train, *test)

    def describe(self) -> str:
        return f"{super().describe()}; {self._problem.describe()}"

    def _texts(self, split: str) -> list[str]:
        """Return the texts, of pairs both in one."""
        columns = self.tables[split].columns
        parts = [columns[name] for name in ("text", "text_pair") if name in columns]
        return [" ".join(texts) for texts in zip(*parts, strict=True)]
