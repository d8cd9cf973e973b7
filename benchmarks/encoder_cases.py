"""Encoder cases: DPR on passages, RoBERTa-PreLayerNorm on masked text."""

from pathlib import Path

import numpy as np

from benchmarks import work
from benchmarks.case import Case, CaseMaker, Rate, machine, peers, random_ids, writer
from benchmarks.lane import Participant
from benchmarks.peers import MODULES
from benchmarks.scales import Scale

ALL_OF_THEM = ["ours", "hf-torch-sdpa", "hf-flax", "onnxruntime"]
# With BERT's default of 0.02, the vectors of a random model are nearly equal.
INIT = {"initializer_range": 0.05}


def passages(scale: Scale, folder: Path) -> Case:
    rows, length = scale.passages
    texts = random_ids(scale.encoder, rows, length)
    return _encode(
        "encode_32x256",
        f"DPR's context encoder on {rows} passages of {length} tokens (hf-flax: BERT)",
        texts,
        rows,
        {"hf-torch-sdpa": 1.0, "onnxruntime": 1.0},
        scale,
        folder,
    )


def paragraphs(scale: Scale, folder: Path) -> Case:
    random = np.random.default_rng(0)
    texts = [random.integers(2, int(scale.encoder["vocab_size"]), n).tolist() for n in scale.paragraphs]
    rows = scale.passages[0]
    return _encode(
        "encode_squad",
        f"The same on {len(texts)} texts with the lengths of SQuAD paragraphs: ours sorted by length, "
        f"{rows // 2} at a time, the others as they come, {rows} at a time",
        texts,
        rows,
        {"hf-torch-sdpa": 1.5},
        scale,
        folder,
        # Padding is 8 % of these batches; with twice the batch size, rounded up to 32 tokens, it would be 16 %.
        {"rows": rows // 2, "multiple": 8},
    )


def masked(scale: Scale, folder: Path) -> Case:
    rows, length = scale.masked
    rate = Rate(rows, "seq", "gemm", rows * work.masked_gigaflops(scale.encoder, length))
    return Case(
        "mlm_8x512",
        f"RoBERTa-PreLayerNorm masked language model, {rows} x {length}, all logits (torch: eager)",
        peers(["ours", "hf-torch-sdpa", "hf-flax"], "masked_lm", folder / "roberta", ids=_rows(scale)),
        rounds=3,
        rate=rate,
        machine=machine(rate, scale),
        weights=writer("RobertaPreLayerNormForMaskedLM", {**scale.encoder, **INIT}, folder / "roberta"),
        goals={"hf-torch-sdpa": 1.25, "hf-flax": 1.1},
    )


def relative(scale: Scale, folder: Path) -> Case:
    """Memory of relative position embeddings, without peers: an array [B,H,T,T,K] would take 6 GiB at full size."""

    def participant(kind: str, attention: str) -> Participant:
        config = {**scale.encoder, "position_embedding_type": kind}
        arguments = {"folder": "", "cls": "RobertaPreLayerNormModel", "config": config, "ids": _rows(scale)}
        return Participant(
            f"{kind}-{attention}", "ours", MODULES["ours"], "memory", {**arguments, "attention": attention}
        )

    position_types, implementations = ("absolute", "relative_key", "relative_key_query"), ("xla", "xla_blocked")
    return Case(
        "relative_memory",
        f"Compiling a forward pass of {scale.masked[0]} x {scale.masked[1]} tokens, and the memory that it needs",
        tuple(
            participant(position_type, attention) for position_type in position_types for attention in implementations
        ),
        rounds=1,
    )


CASES: dict[str, CaseMaker] = {
    "encode_32x256": passages,
    "encode_squad": paragraphs,
    "mlm_8x512": masked,
    "relative_memory": relative,
}


def _encode(
    name: str,
    title: str,
    texts: list[list[int]],
    rows: int,
    goals: dict,
    scale: Scale,
    folder: Path,
    own: dict | None = None,
) -> Case:
    """own: Arguments for jaxmodels only."""
    cost = sum(work.encoder_gigaflops(scale.encoder, len(text)) for text in texts)
    rate = Rate(len(texts), "psg", "gemm", cost)
    config = {**scale.encoder, **INIT}
    others = [name for name in ALL_OF_THEM if name != "ours"]
    return Case(
        name,
        title,
        (
            *peers(["ours"], "encode", folder / "dpr", texts=texts, **{"rows": rows, **(own or {})}),
            *peers(others, "encode", folder / "dpr", texts=texts, rows=rows),
        ),
        rounds=3,
        rate=rate,
        machine=machine(rate, scale),
        weights=writer("DPRContextEncoder", config, folder / "dpr"),
        goals=goals,
    )


def _rows(scale: Scale) -> list[list[int]]:
    return random_ids(scale.encoder, *scale.masked)
