"""A text for each text, by an encoder-decoder: summaries, translations, answers."""

from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import PartitionSpec

import jaxmodels as jm
from jaxmodels.architectures.base import Model
from jaxmodels.tokenization.base import Tokenizer

from ..data.buckets import LabelledTexts
from ..predict import Batch, Predictions
from ..summarize.evaluation import rouge_scores
from .common import Scores
from .from_tables import TableTask


class TextToText(TableTask):
    """Columns source and target; `prefix` precedes each source, such as T5's "summarize: ".

    The first token is LED's global token, as in its checkpoints for summaries.
    """

    model_class = "AutoModelForSeq2SeqLM"
    scores_untrained = True
    generates = True
    score = "ROUGE-L"
    usage = 'jm.generate(model, params, jm.Text(tokenizer, ["A text."]), max_new_tokens=60)'

    def fields(self) -> dict[str, Any]:
        self._target = min(self.config.max_target_tokens, self.checkpoint.max_tokens)
        self._is_led = self.checkpoint.model_type == "led"
        self.model_options = {"max_global_tokens": 1} if self._is_led else {}
        return {}

    def encode(self, split: str, tokenizer: Tokenizer) -> LabelledTexts:
        sources = [self.config.prefix + text for text in self.tables[split].texts("source")]
        encoded = tokenizer(sources, truncation=True, max_length=self.max_tokens)["input_ids"]
        targets = tokenizer(self.tables[split].texts("target"), truncation=True, max_length=self._target)["input_ids"]
        # Encoder-decoders have no token types, though a tokenizer may return them.
        fields = {"input_ids": encoded, "labels": targets}
        if self._is_led:
            fields["global_attention_mask"] = [[1] + [0] * (len(row) - 1) for row in encoded]
        return LabelledTexts(fields, self.config_fields["pad_token_id"], target=self._target)

    def generate(self, model: Model, params: Any, batch: Batch) -> jax.Array:
        inputs = {name: array for name, array in batch.items() if name != "labels"}
        return _sequences(model, params, inputs, self.config.num_beams, max(self._target - 1, 1))

    def scores(self, split: str, predicted: Predictions) -> Scores:
        found = [text.strip() for text in self.tokenizer.batch_decode(predicted.best, skip_special_tokens=True)]
        return text_scores(found, self.tables[split].texts("target")) | {"loss": predicted.loss}

    def baselines(self) -> dict[str, Scores]:
        """Score the beginning of the source, with as many words as targets have on average."""
        words = max(round(np.mean([len(text.split()) for text in self.tables["train"].texts("target")])), 1)
        table = self.tables[self.test_split]
        found = [" ".join(text.split()[:words]) for text in table.texts("source")]
        return {f"first {words} words": text_scores(found, table.texts("target"))}


@partial(jax.jit, static_argnums=(0, 3, 4))
def _sequences(model: Model, params: Any, inputs: dict[str, Any], num_beams: int, tokens: int) -> jax.Array:
    """Generate the ids of a batch, int32 [B, tokens + 1], the whole batch in every process."""
    sequences = jm.generate(model, params, **inputs, num_beams=num_beams, max_new_tokens=tokens).sequences
    return jax.lax.with_sharding_constraint(sequences, PartitionSpec())


def text_scores(found: list[str], references: list[str]) -> Scores:
    """Compute ROUGE, and the share of texts that are equal."""
    equal = [text == reference.strip() for text, reference in zip(found, references, strict=True)]
    return rouge_scores(found, references) | {"equal": float(np.mean(equal))}
