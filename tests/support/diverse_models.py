"""Tiny random models of the reference whose output varies, and calls of both implementations of `generate`.

With plain random weights a model repeats its input; here position embeddings and cross-attention weigh more.
"""

import warnings
from pathlib import Path

import numpy as np
import torch
from support.arrays import close
from support.reference import Pair, torch_model
from transformers.models.t5.modeling_t5 import T5LayerNorm

import jaxmodels as jm

torch.set_num_threads(1)  # for tiny models, starting threads takes longer than the computation

V = 67
PAD = {"GPT2": 0, "Bart": 1, "LED": 1, "T5": 0, "Roberta": 1}
NEVER_GENERATED = 66  # an id that the models never generate
SIZES = {
    # One layer, since loops take long to compile. T5 has two here, like the models in the tests of other folders.
    "GPT2": {"n_layer": 1, "n_positions": 96, "eos_token_id": 5, "bos_token_id": 1},
    "Bart": {"decoder_layers": 1, "encoder_layers": 1, "max_position_embeddings": 48},
    "LED": {
        "decoder_layers": 1,
        "encoder_layers": 1,
        "max_encoder_position_embeddings": 64,
        "max_decoder_position_embeddings": 48,
    },
    "T5": {"eos_token_id": 5},
    "Roberta": {"max_position_embeddings": 98, "is_decoder": True, "eos_token_id": 5},
}


def model_type(name: str) -> str:
    return next(prefix for prefix in PAD if name.startswith(prefix))


def diverse_model(name: str, folder: Path, seed: int = 0, **config) -> Pair:
    """A model of the reference with this class name, and the model loaded from its checkpoint."""
    reference = torch_model(name, seed, **{**SIZES[model_type(name)], **config})
    with torch.no_grad():
        for parameter_name, parameter in reference.named_parameters():
            positions = "decoder.embed_positions" in parameter_name or "wpe" in parameter_name
            distances = "decoder" in parameter_name and "relative_attention_bias" in parameter_name
            cross = ("encoder_attn." in parameter_name or "EncDecAttention" in parameter_name) and parameter.ndim == 2
            if positions or cross or distances or "position_embeddings" in parameter_name:
                parameter *= 10
        for module in reference.modules():
            if isinstance(module, T5LayerNorm):
                module.weight += 1.0
        if name.startswith("GPT2"):
            reference.transformer.wte.weight[NEVER_GENERATED] = 0  # so its logit is 0, below the largest of many
        if hasattr(reference, "final_logits_bias"):
            reference.final_logits_bias *= 0.2
            reference.final_logits_bias[:, NEVER_GENERATED] = -1000
    reference.save_pretrained(folder)
    return Pair(reference, *jm.load(folder, cls=getattr(jm, name)), folder)


def random_ids(batch: int, length: int, seed: int = 0) -> np.ndarray:
    """int [batch,length], ids that are special tokens in none of the models."""
    return np.random.default_rng(seed).integers(6, V - 1, (batch, length))


def padded(ids: np.ndarray, lengths: list[int], pad: int, side: str) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask with the given number of real tokens per sequence."""
    columns, lengths = np.arange(ids.shape[1]), np.array(lengths)[:, None]
    mask = columns < lengths if side == "right" else columns >= ids.shape[1] - lengths
    return np.where(mask, ids, pad), mask.astype(np.int64)


def generate(pair: Pair, ids: np.ndarray | None, **options) -> jm.GenerateOutput:
    return jm.generate(pair.model, pair.params, ids, **options)


def reference_generate(pair: Pair, ids: np.ndarray, **options):
    """The output of the reference, always with the scores of every step."""
    arrays = {k: torch.from_numpy(v) for k, v in options.items() if isinstance(v, np.ndarray)}
    rest = {k: v for k, v in options.items() if k not in arrays}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pair.reference.generate(
            torch.from_numpy(ids),
            **arrays,
            **{"do_sample": False, **rest},
            output_scores=True,
            return_dict_in_generate=True,
        )


def frequent_ids(pair: Pair, ids: np.ndarray, **options) -> list[int]:
    """The ids that greedy decoding generates most often, so that as eos ids they end sequences."""
    out = generate(
        pair,
        ids,
        max_new_tokens=16,
        eos_token_id=NEVER_GENERATED,
        pad_token_id=PAD[model_type(type(pair.model).__name__)],
        **options,
    )
    generated = np.asarray(out.sequences)[:, -16:].ravel()
    return [int(i) for i in np.argsort(-np.bincount(generated, minlength=V), kind="stable") if i > 5]


def assert_equal_beams(actual, expected, tolerance: float = 1e-4) -> None:
    """Compares ids, scores and beam indices; 4.57 returns the indices of generated tokens only."""
    np.testing.assert_array_equal(actual.sequences, expected.sequences)
    close(actual.sequences_scores, expected.sequences_scores, "sequences_scores", tolerance=tolerance)
    indices = np.asarray(actual.beam_indices)
    longest = expected.beam_indices.shape[1]
    np.testing.assert_array_equal(indices[:, :longest], expected.beam_indices)
    assert indices.shape == actual.sequences.shape and (indices[:, longest:] == -1).all()


def assert_equal_scores(actual, expected, name: str = "scores", tolerance: float = 1e-4) -> None:
    """Compares scores [generated,N,V] and where they are -inf.

    NEVER_GENERATED is excluded, since the size of its score would determine the tolerance.
    """
    expected = np.stack([scores.numpy() for scores in expected])
    mine, other = (np.delete(np.asarray(scores), NEVER_GENERATED, axis=-1) for scores in (actual, expected))
    assert mine.shape == other.shape
    finite = np.isfinite(other) & (np.abs(other) < 1e30)  # `remove_invalid_values` returns the largest numbers
    np.testing.assert_array_equal(np.isfinite(mine) & (np.abs(mine) < 1e30), finite)
    close(mine[finite], other[finite], name, tolerance=tolerance)
