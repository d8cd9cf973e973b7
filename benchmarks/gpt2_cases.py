"""The cases: who does what on which sizes. One table; everything in it is data."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from benchmarks import work
from benchmarks.lane import Participant
from benchmarks.peers import MODULES

# Dropout is off so that losses can be compared; no id ends a text, so that every peer makes the same number of tokens.
CONFIG = {
    **{"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    **{"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0},
}


@dataclasses.dataclass(frozen=True)
class Scale:
    """Sizes of all cases: `model` holds GPT-2 config keys, `depths` numbers of layers, the rest lengths in tokens."""

    # Its initializer_range is above GPT-2's 0.02, with which a random model only echoes the last token.
    model: Mapping[str, float]
    prompt: int
    new: int
    prefill: int
    train: int
    depths: tuple[int, ...]
    bandwidth_mib: int
    gemm_size: int


GPT2_SMALL = Scale(
    model={
        "vocab_size": 50257,
        "n_positions": 1024,
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "initializer_range": 0.05,
    },
    prompt=32,
    new=128,
    prefill=512,
    train=512,
    depths=(12, 24, 48),
    bandwidth_mib=512,
    gemm_size=2048,
)
TINY = Scale(
    model={"vocab_size": 512, "n_positions": 64, "n_embd": 128, "n_layer": 2, "n_head": 2, "initializer_range": 0.15},
    prompt=8,
    new=8,
    prefill=32,
    train=32,
    depths=(1, 2, 4),
    bandwidth_mib=8,
    gemm_size=128,
)


@dataclasses.dataclass(frozen=True)
class Rate:
    """What one call is worth: `amount` in `unit` for the user, and what it costs of one of the machine's limits.

    Attributes:
      cost: GB of a "bandwidth" limit, GFLOP of a "gemm" limit.
    """

    amount: float
    unit: str
    limit: str
    cost: float


@dataclasses.dataclass(frozen=True)
class Case:
    """One table.

    Attributes:
      rounds: how often everyone is timed, unless `--rounds` says otherwise.
      machine: measures the limit of `rate` in every round.
      fresh: every call in a new process, and so the first one there.
      token_width: the outputs are token ids in rows of that width; None: they are numbers, or there are none.
      goals: the least ratio to a peer that ours is to reach.
      rise_over: MiB of the parameters and of the largest tensor, where the rise of memory in the call matters.
    """

    name: str
    title: str
    participants: tuple[Participant, ...]
    rounds: int = 5
    rate: Rate | None = None
    machine: Participant | None = None
    fresh: bool = False
    token_width: int | None = None
    goals: Mapping[str, float] = dataclasses.field(default_factory=dict)
    rise_over: tuple[float, float] | None = None


def weights(scale: Scale, folder: Path) -> Participant:
    """Writes the weights that all peers load."""
    arguments = {"folder": str(folder), "config": {**scale.model, **CONFIG}}
    return Participant("weights", "ours", MODULES["ours"], "write_weights", arguments)


def decode(name: str, batch: int, goals: dict[str, float], scale: Scale, folder: Path) -> Case:
    rate = Rate(batch * scale.new, "tok", "bandwidth", work.decode_gigabytes(scale.model, scale.new))
    return Case(
        name,
        f"Greedy decode, batch {batch}, {scale.prompt} + {scale.new} tokens",
        _peers(MODULES, "decode", folder, **_decoding(scale, batch)),
        rate=rate,
        machine=_machine(rate, scale),
        token_width=scale.prompt + scale.new,
        goals=goals,
    )


def prefill(scale: Scale, folder: Path) -> Case:
    rate = Rate(scale.prefill, "tok", "gemm", work.prefill_gigaflops(scale.model, 1, scale.prefill))
    return Case(
        "prefill_512",
        f"Prefill of {scale.prefill} tokens, logits of the last one (hf-flax makes all)",
        _peers(["ours", "hf-torch-sdpa", "hf-flax"], "prefill", folder, ids=_ids(scale, 1, scale.prefill)),
        rate=rate,
        machine=_machine(rate, scale),
        goals={"hf-torch-sdpa": 0.95},
    )


def train(scale: Scale, folder: Path) -> Case:
    rate = Rate(2 * scale.train, "tok", "gemm", work.train_gigaflops(scale.model, 2, scale.train))
    return Case(
        "train_2x512",
        f"Training step, 2 x {scale.train}, forward + backward + AdamW",
        _peers(["ours", "hf-torch-sdpa", "hf-flax"], "train", folder, ids=_ids(scale, 2, scale.train)),
        rate=rate,
        machine=_machine(rate, scale),
        goals={"hf-torch-sdpa": 1.1, "hf-flax": 1.0},
    )


def load(scale: Scale, folder: Path) -> Case:
    gigabytes = work.file_gigabytes(scale.model)
    rate = Rate(gigabytes, "GB", "bandwidth", gigabytes)
    largest = 4 * work.embedding_sizes(scale.model)[0] / 2**20
    return Case(
        "load",
        f"Safetensors of {gigabytes * 1e3:.0f} MB to parameters, and their sum; fresh processes, without imports",
        _peers(["ours", "hf-torch-sdpa", "hf-flax"], "load", folder),
        rate=rate,
        machine=_machine(rate, scale),
        fresh=True,
        goals={"hf-torch-sdpa": 1 / 3, "hf-flax": 15.0},
        rise_over=(gigabytes * 1e9 / 2**20, largest),
    )


def startup_cold(scale: Scale, folder: Path) -> Case:
    return Case(
        "startup_cold",
        "First generate call of a process that has loaded the model, nothing compiled before",
        _peers(MODULES, "decode", folder, **_decoding(scale, batch=1)),
        rounds=3,
        fresh=True,
        token_width=scale.prompt + scale.new,
    )


def startup_warm(scale: Scale, folder: Path) -> Case:
    cache = {"JAX_COMPILATION_CACHE_DIR": str(folder / "compilation_cache")}
    return Case(
        "startup_warm",
        "The same with JAX's persistent compilation cache, filled by the first call (torch compiles nothing)",
        _peers(["ours", "hf-torch-sdpa", "hf-flax"], "decode", folder, cache, **_decoding(scale, batch=1)),
        rounds=3,
        fresh=True,
        token_width=scale.prompt + scale.new,
    )


def compile_growth(scale: Scale, folder: Path) -> Case:
    def participant(layers: int, unroll: bool) -> Participant:
        config = {**scale.model, **CONFIG, "n_layer": layers}
        arguments = {"folder": "", "config": config, "ids": _ids(scale, 2, scale.train), "unroll": unroll}
        label = f"{'unrolled' if unroll else 'scanned'}-{layers}"
        return Participant(label, "ours", MODULES["ours"], "compile_step", arguments)

    return Case(
        "compile_growth",
        f"Compiling the training step, 2 x {scale.train}, of a model with that many layers",
        tuple(participant(layers, unroll) for unroll in (False, True) for layers in scale.depths),
        rounds=1,
        fresh=True,
    )


CASES: dict[str, Callable[[Scale, Path], Case]] = {
    "decode_b1": lambda *where: decode(
        "decode_b1", 1, {"hf-torch-sdpa": 2.0, "ctranslate2-f32": 1.0, "hf-flax": 2.9}, *where
    ),
    "decode_b8": lambda *where: decode("decode_b8", 8, {"hf-torch-sdpa": 2.0}, *where),
    "prefill_512": prefill,
    "train_2x512": train,
    "load": load,
    "startup_cold": startup_cold,
    "startup_warm": startup_warm,
    "compile_growth": compile_growth,
}


def _peers(names, job: str, folder: Path, environment: dict | None = None, **arguments) -> tuple[Participant, ...]:
    arguments = {"folder": str(folder / "weights"), **arguments}
    return tuple(Participant(name, name, MODULES[name], job, arguments, environment or {}) for name in names)


def _machine(rate: Rate, scale: Scale) -> Participant:
    sizes = {"bandwidth": {"mib": scale.bandwidth_mib}, "gemm": {"size": scale.gemm_size}}
    arguments = {"folder": "", **sizes[rate.limit]}
    return Participant("machine", "machine", "benchmarks.peers.machine", rate.limit, arguments)


def _decoding(scale: Scale, batch: int) -> dict:
    return {"ids": _ids(scale, batch, scale.prompt), "new": scale.new}


def _ids(scale: Scale, batch: int, length: int) -> list[list[int]]:
    """Random ids without 0, the padding."""
    return np.random.default_rng(0).integers(1, scale.model["vocab_size"], (batch, length)).tolist()
