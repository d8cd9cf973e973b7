"""Pairs of T5 models with random weights, and inputs for them."""

from pathlib import Path

import numpy as np
import torch
from support.arrays import ids
from support.bart_inputs import DECODED_MASK, batch
from support.reference import Pair, torch_model
from transformers.models.t5.modeling_t5 import T5LayerNorm

import jaxmodels as jm

# Longer than the tiny model's relative_attention_max_distance of 10.
LONG = {"input_ids": ids((2, 13)), "decoder_input_ids": ids((2, 12), seed=1)}
# The pad id is 0. Padding on the right in the encoder; every decoder position attends to something.
PADDED = np.array([[5, 6, 7, 8, 0, 0], [9, 10, 11, 12, 13, 14]])
MASK = (PADDED != 0).astype(int)
DECODED = np.array([[0, 21, 22, 23, 0], [0, 31, 32, 33, 34]])
BATCH = batch(PADDED, MASK, DECODED)
LABELS = np.where(DECODED_MASK, DECODED, -100)


def t5_pair(name: str, folder: Path, load: dict | None = None, **config) -> Pair:
    """Create a pair like `support.reference.pair`, with norms around one, since T5 has its own norm class."""
    reference = torch_model(name, **config)
    with torch.no_grad():
        for module in reference.modules():
            if isinstance(module, T5LayerNorm):
                module.weight += 1.0
    reference.save_pretrained(folder)
    return Pair(reference, *jm.load(folder, cls=getattr(jm, name), **(load or {})), folder)
