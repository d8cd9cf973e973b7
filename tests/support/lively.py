"""Tiny models of the reference whose texts vary, and calls of both `generate`s.

With plain random weights a model repeats what it reads: here the places, and the encoder's states, weigh more.
"""

import warnings
from pathlib import Path

import numpy as np
import torch
from support.arrays import close
from support.reference import Pair, torch_model
from transformers.models.t5.modeling_t5 import T5LayerNorm

import jaxmodels as jm

torch.set_num_threads(1)  # threads of tiny sums cost a hundred times what they save

V = 67
PAD = {"GPT2": 0, "Bart": 1, "LED": 1, "T5": 0, "Roberta": 1}
UNHEARD = 66  # an id that is never said
ROOM = {
    # One layer: loops take long to compile. T5 has two here, and so have the models of the other folders' tests.
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


def family(name: str) -> str:
    return next(prefix for prefix in PAD if name.startswith(prefix))


def lively(name: str, folder: Path, seed: int = 0, **config) -> Pair:
    reference = torch_model(name, seed, **{**ROOM[family(name)], **config})
    with torch.no_grad():
        for parameter_name, parameter in reference.named_parameters():
            places = "decoder.embed_positions" in parameter_name or "wpe" in parameter_name
            distances = "decoder" in parameter_name and "relative_attention_bias" in parameter_name
            cross = ("encoder_attn." in parameter_name or "EncDecAttention" in parameter_name) and parameter.ndim == 2
            if places or cross or distances or "position_embeddings" in parameter_name:
                parameter *= 10
        for module in reference.modules():
            if isinstance(module, T5LayerNorm):
                module.weight += 1.0
        if name.startswith("GPT2"):
            reference.transformer.wte.weight[UNHEARD] = 0  # and so is its logit, below the best of many
        if hasattr(reference, "final_logits_bias"):
            reference.final_logits_bias *= 0.2
            reference.final_logits_bias[:, UNHEARD] = -1000
    reference.save_pretrained(folder)
    return Pair(reference, *jm.load(folder, cls=getattr(jm, name)), folder)


def texts(rows: int, length: int, seed: int = 0) -> np.ndarray:
    """Ids that are special nowhere."""
    return np.random.default_rng(seed).integers(6, V - 1, (rows, length))


def padded(ids: np.ndarray, lengths: list[int], pad: int, side: str) -> tuple[np.ndarray, np.ndarray]:
    """ids and mask with so many real tokens in each row."""
    columns, lengths = np.arange(ids.shape[1]), np.array(lengths)[:, None]
    mask = columns < lengths if side == "right" else columns >= ids.shape[1] - lengths
    return np.where(mask, ids, pad), mask.astype(np.int64)


def ours(pair: Pair, ids: np.ndarray, **options):
    return jm.generate(pair.model, pair.params, ids, **options)


def theirs(pair: Pair, ids: np.ndarray, **options):
    """The reference's whole output; scores of the steps always are asked for."""
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


def often_said(pair: Pair, ids: np.ndarray, **options) -> list[int]:
    """The ids that greedy decoding gives most, so that as eos ids they end rows."""
    out = ours(
        pair,
        ids,
        max_new_tokens=16,
        eos_token_id=UNHEARD,
        pad_token_id=PAD[family(type(pair.model).__name__)],
        **options,
    )
    said = np.asarray(out.sequences)[:, -16:].ravel()
    return [int(i) for i in np.argsort(-np.bincount(said, minlength=V), kind="stable") if i > 5]


def equal_beams(got, expected, tolerance: float = 1e-4) -> None:
    """Ids, scores and paths of beams; what 4.57 has is cut to the generated tokens."""
    np.testing.assert_array_equal(got.sequences, expected.sequences)
    close(got.sequences_scores, expected.sequences_scores, "sequences_scores", tolerance=tolerance)
    indices = np.asarray(got.beam_indices)
    longest = expected.beam_indices.shape[1]
    np.testing.assert_array_equal(indices[:, :longest], expected.beam_indices)
    assert indices.shape == got.sequences.shape and (indices[:, longest:] == -1).all()


def equal_scores(got, expected, name: str = "scores", tolerance: float = 1e-4) -> None:
    """[generated,N,V]; both forbid the same. What BART and LED never say is left out: its score sets the scale."""
    expected = np.stack([scores.numpy() for scores in expected])
    mine, other = (np.delete(np.asarray(scores), UNHEARD, axis=-1) for scores in (got, expected))
    assert mine.shape == other.shape
    finite = np.isfinite(other) & (np.abs(other) < 1e30)  # `remove_invalid_values` makes the largest numbers
    np.testing.assert_array_equal(np.isfinite(mine) & (np.abs(mine) < 1e30), finite)
    close(mine[finite], other[finite], name, tolerance=tolerance)
