"""GPT-2 cases: loading, start of a process and compilation; see `decoder_cases` for the others."""

from pathlib import Path
from typing import Any

from benchmarks import work
from benchmarks.case import Case, CaseMaker, Rate, machine, peers, random_ids, writer
from benchmarks.lane import Participant
from benchmarks.peers import MODULES
from benchmarks.scales import Scale

# Without dropout, losses are comparable. Without an EOS token, all peers generate the same number of tokens.
WITHOUT_EOS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
CONFIG = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, **WITHOUT_EOS}
ALL_OF_THEM = ["ours", "hf-torch-sdpa", "hf-flax", "ctranslate2-f32"]


def load(scale: Scale, folder: Path) -> Case:
    gigabytes = work.file_gigabytes(scale.model)
    rate = Rate(gigabytes, "GB", "bandwidth", gigabytes)
    largest = 4 * work.embedding_sizes(scale.model)[0] / 2**20
    return Case(
        "load",
        f"Safetensors of {gigabytes * 1e3:.0f} MB to parameters, and their sum; fresh processes, without imports, "
        "in memory that the machine has",
        peers(["ours", "hf-torch-sdpa", "hf-flax"], "load", folder / "gpt2"),
        rate=rate,
        machine=machine(rate, scale),
        weights=_weights(scale, folder),
        fresh=True,
        goals={"hf-torch-sdpa": 1 / 3, "hf-flax": 15.0},
        rise_over=(gigabytes * 1e9 / 2**20, largest),
    )


def startup_cold(scale: Scale, folder: Path) -> Case:
    return Case(
        "startup_cold",
        "First generate call of a process that has loaded the model, nothing compiled before",
        peers(ALL_OF_THEM, "decode", folder / "gpt2", **_decoding(scale, batch=1)),
        weights=_weights(scale, folder),
        rounds=3,
        fresh=True,
        token_width=scale.prompt + scale.new,
    )


def startup_warm(scale: Scale, folder: Path) -> Case:
    cache = {"JAX_COMPILATION_CACHE_DIR": str(folder / "compilation_cache")}
    return Case(
        "startup_warm",
        "The same with JAX's persistent compilation cache, filled by the first call (torch compiles nothing)",
        peers(["ours", "hf-torch-sdpa", "hf-flax"], "decode", folder / "gpt2", cache, **_decoding(scale, batch=1)),
        weights=_weights(scale, folder),
        rounds=3,
        fresh=True,
        token_width=scale.prompt + scale.new,
    )


def import_time(_scale: Scale, _folder: Path) -> Case:
    def participant(label: str, *names: str) -> Participant:
        return Participant(label, "ours", "benchmarks.peers.imports", "packages", {"folder": "", "names": list(names)})

    participants = participant("ours", "jaxmodels"), participant("jax-flax-optax", "jax", "flax", "optax")
    return Case("import", "import jaxmodels, and what it imports, in a fresh process", participants, fresh=True)


def compile_train(scale: Scale, folder: Path) -> Case:
    arguments: dict[str, Any] = {"config": {**scale.model, **CONFIG}, "ids": random_ids(scale.model, 2, scale.train)}
    return Case(
        "compile_train",
        f"Tracing, lowering and compiling the training step, 2 x {scale.train}, in a fresh process",
        peers(["ours", "hf-flax"], "compile_step", folder, **arguments),
        rounds=3,
        fresh=True,
        goals={"hf-flax": 3.0},
    )


def compile_growth(scale: Scale, folder: Path) -> Case:
    def participant(layers: int, unroll: bool) -> Participant:
        config = {**scale.model, **CONFIG, "n_layer": layers}
        arguments = {"folder": "", "config": config, "ids": random_ids(scale.model, 2, scale.train), "unroll": unroll}
        label = f"{'unrolled' if unroll else 'scanned'}-{layers}"
        return Participant(label, "ours", MODULES["ours"], "compile_step", arguments)

    return Case(
        "compile_growth",
        f"Compiling the training step, 2 x {scale.train}, by number of layers",
        tuple(participant(layers, unroll) for unroll in (False, True) for layers in scale.depths),
        rounds=1,
        fresh=True,
    )


CASES: dict[str, CaseMaker] = {
    "load": load,
    "startup_cold": startup_cold,
    "startup_warm": startup_warm,
    "compile_train": compile_train,
    "compile_growth": compile_growth,
}


def _decoding(scale: Scale, batch: int) -> dict:
    return {"ids": random_ids(scale.model, batch, scale.prompt), "new": scale.new}


def _weights(scale: Scale, folder: Path) -> Participant:
    return writer("GPT2LMHeadModel", {**scale.model, **CONFIG}, folder / "gpt2")
