"""Llama cases at the size of GPT-2 small, with three heads of queries for one of keys."""

from pathlib import Path
from typing import Any

from benchmarks import work
from benchmarks.case import Case, CaseMaker, Rate, machine, peers, random_ids, writer
from benchmarks.lane import Participant
from benchmarks.scales import Scale

# Without an EOS token, both generate the same number of tokens.
CONFIG = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
PEERS = ["ours", "hf-torch-sdpa"]


def decode(name: str, batch: int, scale: Scale, folder: Path) -> Case:
    rate = Rate(batch * scale.new, "tok", "bandwidth", work.llama_decode_gigabytes(scale.llama, scale.new))
    arguments: dict[str, Any] = {"ids": random_ids(scale.llama, batch, scale.prompt), "new": scale.new}
    return Case(
        name,
        f"Llama: greedy decode, batch {batch}, {scale.prompt} + {scale.new} tokens",
        peers(PEERS, "decode", folder / "llama", **arguments),
        rate=rate,
        machine=machine(rate, scale),
        weights=_weights(scale, folder),
        token_width=scale.prompt + scale.new,
        goals={"hf-torch-sdpa": 1.0},
    )


def prefill(scale: Scale, folder: Path) -> Case:
    rate = Rate(scale.prefill, "tok", "gemm", work.llama_prefill_gigaflops(scale.llama, scale.prefill))
    return Case(
        "llama_prefill",
        f"Llama: prefill of {scale.prefill} tokens, logits of the last one",
        peers(PEERS, "prefill", folder / "llama", ids=random_ids(scale.llama, 1, scale.prefill)),
        rate=rate,
        machine=machine(rate, scale),
        weights=_weights(scale, folder),
        goals={"hf-torch-sdpa": 1.0},
    )


def train(scale: Scale, folder: Path) -> Case:
    rate = Rate(2 * scale.train, "tok", "gemm", work.llama_train_gigaflops(scale.llama, 2, scale.train))
    return Case(
        "llama_train",
        f"Llama: training step, 2 x {scale.train}, forward + backward + AdamW",
        peers(PEERS, "train", folder / "llama", ids=random_ids(scale.llama, 2, scale.train)),
        rate=rate,
        machine=machine(rate, scale),
        weights=_weights(scale, folder),
        goals={"hf-torch-sdpa": 1.0},
    )


CASES: dict[str, CaseMaker] = {
    "llama_decode_b1": lambda *where: decode("llama_decode_b1", 1, *where),
    "llama_decode_b8": lambda *where: decode("llama_decode_b8", 8, *where),
    "llama_prefill": prefill,
    "llama_train": train,
}


def _weights(scale: Scale, folder: Path) -> Participant:
    return writer("LlamaForCausalLM", {**scale.llama, **CONFIG}, folder / "llama")
