"""Pairs of RAG models with random weights, and inputs for them."""

from pathlib import Path

import numpy as np
import torch
import transformers
from support.arrays import numbers
from support.reference import Pair
from support.tiny import sizes

import jaxmodels as jm

QUESTIONS, DOCUMENTS, LENGTH, VOCABULARY = 2, 3, 9, 67
_rng = np.random.default_rng(7)
MASK = np.arange(LENGTH) < np.array([9, 7, 8, 5, 9, 6])[:, None]
CONTEXTS = {
    "context_input_ids": np.where(MASK, _rng.integers(4, VOCABULARY, MASK.shape), 1),
    "context_attention_mask": MASK.astype(np.int64),
    "doc_scores": numbers((QUESTIONS, DOCUMENTS), 3),
}
LABELS = _rng.integers(4, VOCABULARY, (QUESTIONS, 6))
LABELS[:, 0] = 2
LABELS[1, 4:] = 1
GENERATORS = {"bart": "BartForConditionalGeneration", "t5": "T5ForConditionalGeneration"}
_IDS = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2}


def rag_pair(name: str, folder: Path, generator: str = "bart", seed: int = 0, load=None, **config) -> Pair:
    """Create a pair of RAG models from a question encoder and a generator."""
    part = getattr(transformers, GENERATORS[generator])
    values_of_generator = {"attn_implementation": "eager", **sizes(GENERATORS[generator]), **_IDS}
    values_of_generator |= {"bos_token_id": None} if generator == "t5" else {}
    encoder = {**sizes("DPR"), "attn_implementation": "eager"}
    values = transformers.RagConfig.from_question_encoder_generator_configs(
        transformers.DPRConfig(**encoder),
        part.config_class(**values_of_generator),
        n_docs=DOCUMENTS,
        **{**_IDS, **config},
    )
    torch.manual_seed(seed)
    parts = {
        "question_encoder": transformers.DPRQuestionEncoder(transformers.DPRConfig(**encoder)),
        "generator": part(part.config_class(**values_of_generator)),
    }
    reference = getattr(transformers, name)(config=values, **parts).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.normal_(0.0, 0.15)
        for module in reference.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.weight += 1.0
    reference.save_pretrained(folder)
    model, params = jm.load(folder, cls=getattr(jm, name), **(load or {}))
    return Pair(reference, model, params, folder)
