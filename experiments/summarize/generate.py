"""Summaries of many requests, some at a time in one static shape."""

import numpy as np
from ml_collections import FrozenConfigDict
from tqdm import tqdm

import jaxmodels as jm
from experiments.summarize.examples import Summaries


def write_summaries(
    model: jm.LEDForConditionalGeneration,
    params: dict,
    tokenizer: jm.LEDTokenizer,
    examples: Summaries,
    config: FrozenConfigDict,
) -> list[str]:
    """What the model writes, greedily, for each request; generate_rows of them at a time."""
    rows, texts = config.generate_rows, []
    for first in tqdm(range(0, len(examples.queries), rows), desc="summaries", unit="batch", mininterval=5):
        chosen = np.arange(first, min(first + rows, len(examples.queries)))
        # The last batch is filled up with its own rows, so that it has the shape of the others.
        batch = examples.batch(np.resize(chosen, rows), examples.source)
        del batch["labels"]
        out = jm.generate(
            model, params, **batch, max_global_tokens=config.lengths.query, max_new_tokens=examples.target - 1
        )
        texts += tokenizer.batch_decode(np.asarray(out.sequences)[: len(chosen)], skip_special_tokens=True)
    return [text.strip() for text in texts]
