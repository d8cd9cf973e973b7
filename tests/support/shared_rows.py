"""Script for several processes: batches, training steps, evaluation and index search on meshes that span all of them.

Arguments: process, number of processes, port, names of the meshes to train on. Prints a JSON line of results for each
mesh, and for each refusal.
"""

import json
import sys

import jax

PROCESS, PROCESSES = map(int, sys.argv[1:3])
if PROCESSES > 1:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{sys.argv[3]}", PROCESSES, PROCESS)

import numpy as np  # noqa: E402
import optax  # noqa: E402
from jax.experimental import multihost_utils  # noqa: E402

import jaxmodels as jm  # noqa: E402
from jaxmodels.sharding import FSDP_TP, addressable_rows  # noqa: E402
from jaxmodels.training import init_state, make_contrastive_step, make_evaluate, make_step, place  # noqa: E402

KEY = jax.random.key(0)
B, T = 8, 16
IDS = np.random.default_rng(0).integers(2, 64, (B, T), dtype=np.int32)
# Texts of different lengths: the microbatches have different numbers of labels.
BATCH = {"input_ids": IDS, "labels": np.where(np.arange(T) < np.arange(6, 14)[:, None], IDS, -100)}
SHARE = slice(PROCESS * B // PROCESSES, (PROCESS + 1) * B // PROCESSES)
# With dropout, whose random numbers depend on the row.
GPT2 = jm.GPT2LMHeadModel(jm.GPT2Config(vocab_size=64, n_positions=T, n_embd=32, n_layer=1, n_head=4))
_DPR = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 40}
DPR = jm.DPRQuestionEncoder(jm.DPRConfig(**_DPR, max_position_embeddings=T))
OPTIMIZER = optax.sgd(0.1)

DEVICES = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
# Sizes of the axes data and model, and the order of the devices; in some, those of different processes alternate.
MESHES = {
    "data": (4, 1, (0, 1, 2, 3)),
    "model": (1, 4, (0, 1, 2, 3)),
    "both": (2, 2, (0, 1, 2, 3)),
    "alternating": (4, 1, (0, 2, 1, 3)),
    "shared rows": (2, 2, (0, 2, 1, 3)),
    "reversed": (4, 1, (3, 2, 1, 0)),
}


def mesh_of(data: int, model: int, order: tuple[int, ...]) -> jax.sharding.Mesh:
    return jax.sharding.Mesh(np.array([DEVICES[i] for i in order]).reshape(data, model), ("data", "model"))


def show(name: str, **found) -> None:
    print(json.dumps({"name": name, **found}), flush=True)


def is_whole(batch: dict) -> bool:
    """Whether the batch consists of all examples, in order."""
    found = multihost_utils.process_allgather(batch, tiled=True)
    return all(np.array_equal(found[name], array) for name, array in BATCH.items())


def train(placed: dict, **sharding) -> dict[str, float]:
    state = init_state(OPTIMIZER, jm.init(GPT2, KEY, **sharding))
    step = make_step(GPT2, OPTIMIZER, **sharding, microbatches=2, weight=lambda batch: (batch["labels"] != -100).sum())
    state, first = step(state, placed, KEY)
    _, second = step(state, placed, KEY)
    return {f"{name} {n}": float(m[name]) for n, m in enumerate((first, second)) for name in ("loss", "grad_norm")}


def vectors(params, batch, key) -> jax.Array:
    return DPR.apply({"params": params}, batch["ids"]).pooler_output


def contrast(rows: np.ndarray, **sharding) -> dict[str, float]:
    """Questions are the first half of each text, and the positive passages the second."""
    local = {"question_ids": IDS[rows, : T // 2], "context_ids": IDS[rows, T // 2 :]}
    step = make_contrastive_step(DPR, vectors, lambda *args: vectors(*args)[:, None], OPTIMIZER, **sharding)
    state = init_state(OPTIMIZER, jm.init(DPR, KEY, **sharding))
    _, metrics = step(state, place(local, **sharding, size=B), KEY)
    return {f"contrastive {name}": float(metrics[name]) for name in ("loss", "grad_norm")}


def search(mesh: jax.sharding.Mesh, **sharding) -> dict[str, list]:
    table = np.random.default_rng(1).normal(size=(300, 8)).astype(np.float32)
    with jm.sharding.use(mesh, **sharding):
        return {"hits": jm.DenseIndex(table, mesh).search(table[:3], 4)[1].ravel().tolist()}


for name, axes in MESHES.items():
    mesh = mesh_of(*axes)
    sharding = {"mesh": mesh, "rules": FSDP_TP}
    rows = addressable_rows(**sharding, size=B)
    placed = place({name: array[rows] for name, array in BATCH.items()}, **sharding, size=B)
    shares = place({name: array[SHARE] for name, array in BATCH.items()}, **sharding)
    found = {"whole": is_whole(placed) and is_whole(shares)}
    if name in sys.argv[4:]:
        found |= train(placed, **sharding) | search(**sharding)
        params = jm.init(GPT2, KEY, **sharding)
        found["evaluation"] = make_evaluate(GPT2, **sharding)(params, [placed] * 6)
    if name == "both":
        found |= contrast(rows, **sharding)
    show(name, rows=rows.tolist(), **found)

if PROCESSES > 1:
    three = jax.sharding.Mesh(np.array(DEVICES[:3]), ("data",))
    refused = {
        "unequal": lambda: place({"x": IDS[: 4 + 2 * PROCESS]}, mesh_of(4, 1, (0, 1, 2, 3)), FSDP_TP),
        "missing": lambda: place({"x": IDS[:1]}, mesh_of(1, 4, (0, 1, 2, 3)), FSDP_TP, size=B),
        "indivisible": lambda: addressable_rows(three, FSDP_TP, B),
    }
    for name, call in refused.items():
        try:
            call()
            show(name)
        except ValueError as error:
            show(name, error=str(error))
    if PROCESSES == 2:  # the processes have two devices and one
        rows = addressable_rows(three, FSDP_TP, 6)
        placed = place({"x": IDS[rows]}, three, FSDP_TP, size=6)
        parts = {shard.index[0].start: shard.data.tolist() for shard in placed["x"].addressable_shards}
        show("uneven", rows=rows.tolist(), right=all(IDS[i : i + 2].tolist() == part for i, part in parts.items()))
