"""Decoding, prefill and training of GPT-2 small, and of a Llama with as many parameters.

Llama has three heads of queries for one of keys.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import gpt2_cases, work
from benchmarks.case import Case, CaseMaker, Rate, machine, peers, random_ids, writer
from benchmarks.lane import Participant
from benchmarks.scales import Scale

Sizes = Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Decoder:
    """A model that the cases are made for.

    Attributes:
      name: Begins the description of a case.
      folder: Where its weights are written.
      model_class: Name of its class.
      sizes: Returns its config from a scale.
      config: Further values of the config.
      decode_gigabytes: Bytes read by (sizes, new tokens).
      prefill_gigaflops, train_gigaflops: FLOPs of (sizes, batch, length).
    """

    name: str
    folder: str
    model_class: str
    sizes: Callable[[Scale], Sizes]
    config: Mapping[str, Any]
    decode_gigabytes: Callable[[Sizes, int], float]
    prefill_gigaflops: Callable[[Sizes, int, int], float]
    train_gigaflops: Callable[[Sizes, int, int], float]

    def weights(self, scale: Scale, folder: Path) -> Participant:
        return writer(self.model_class, {**self.sizes(scale), **self.config}, folder / self.folder)


GPT2 = Decoder(
    "GPT-2",
    "gpt2",
    "GPT2LMHeadModel",
    lambda scale: scale.model,
    gpt2_cases.CONFIG,
    work.decode_gigabytes,
    work.prefill_gigaflops,
    work.train_gigaflops,
)
LLAMA = Decoder(
    "Llama",
    "llama",
    "LlamaForCausalLM",
    lambda scale: scale.llama,
    gpt2_cases.WITHOUT_EOS,
    work.llama_decode_gigabytes,
    work.llama_prefill_gigaflops,
    work.llama_train_gigaflops,
)


def decode(name: str, model: Decoder, batch: int, goals: dict[str, float], scale: Scale, folder: Path) -> Case:
    sizes = model.sizes(scale)
    rate = Rate(batch * scale.new, "tok", "bandwidth", model.decode_gigabytes(sizes, scale.new))
    arguments: dict[str, Any] = {"ids": random_ids(sizes, batch, scale.prompt), "new": scale.new}
    return Case(
        name,
        f"{model.name}: greedy decode, batch {batch}, {scale.prompt} + {scale.new} tokens",
        peers(_peers(model, gpt2_cases.ALL_OF_THEM), "decode", folder / model.folder, **arguments),
        rate=rate,
        machine=machine(rate, scale),
        weights=model.weights(scale, folder),
        token_width=scale.prompt + scale.new,
        goals=goals,
    )


def prefill(name: str, model: Decoder, goals: dict[str, float], scale: Scale, folder: Path) -> Case:
    sizes = model.sizes(scale)
    rate = Rate(scale.prefill, "tok", "gemm", model.prefill_gigaflops(sizes, 1, scale.prefill))
    ids = random_ids(sizes, 1, scale.prefill)
    return Case(
        name,
        f"{model.name}: prefill of {scale.prefill} tokens, logits of the last one (hf-flax computes all)",
        peers(_peers(model, ["ours", "hf-torch-sdpa", "hf-flax"]), "prefill", folder / model.folder, ids=ids),
        rate=rate,
        machine=machine(rate, scale),
        weights=model.weights(scale, folder),
        goals=goals,
    )


def train(name: str, model: Decoder, goals: dict[str, float], scale: Scale, folder: Path) -> Case:
    sizes = model.sizes(scale)
    rate = Rate(2 * scale.train, "tok", "gemm", model.train_gigaflops(sizes, 2, scale.train))
    ids = random_ids(sizes, 2, scale.train)
    return Case(
        name,
        f"{model.name}: training step, 2 x {scale.train}, forward + backward + AdamW",
        peers(_peers(model, ["ours", "hf-torch-sdpa", "hf-flax"]), "train", folder / model.folder, ids=ids),
        rate=rate,
        machine=machine(rate, scale),
        weights=model.weights(scale, folder),
        goals=goals,
    )


def _peers(model: Decoder, names: list[str]) -> list[str]:
    """Those that have the model: torch alone has Llama."""
    return names if model is GPT2 else [name for name in names if name in ("ours", "hf-torch-sdpa")]


def _named(name: str, maker: Callable[..., Case], *arguments: Any) -> dict[str, CaseMaker]:
    return {name: lambda scale, folder: maker(name, *arguments, scale, folder)}


CASES: dict[str, CaseMaker] = {
    **_named("decode_b1", decode, GPT2, 1, {"hf-torch-sdpa": 2.0, "ctranslate2-f32": 1.0, "hf-flax": 2.9}),
    **_named("decode_b8", decode, GPT2, 8, {"hf-torch-sdpa": 2.0}),
    **_named("prefill_512", prefill, GPT2, {"hf-torch-sdpa": 0.95}),
    **_named("train_2x512", train, GPT2, {"hf-torch-sdpa": 1.1, "hf-flax": 1.0}),
    **_named("llama_decode_b1", decode, LLAMA, 1, {"hf-torch-sdpa": 1.0}),
    **_named("llama_decode_b8", decode, LLAMA, 8, {"hf-torch-sdpa": 1.0}),
    **_named("llama_prefill", prefill, LLAMA, {"hf-torch-sdpa": 1.0}),
    **_named("llama_train", train, LLAMA, {"hf-torch-sdpa": 1.0}),
}
