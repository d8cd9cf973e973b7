"""Script for two processes: place batches on meshes that span both, and run a training step.

Arguments: process, port. Prints a JSON line for each mesh: loss, gradient norm, and whether the batch was complete.
"""

import json
import sys

import jax

PROCESS = int(sys.argv[1])
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"127.0.0.1:{sys.argv[2]}", 2, PROCESS)

import numpy as np  # noqa: E402
import optax  # noqa: E402
from jax.experimental import multihost_utils  # noqa: E402

import jaxmodels as jm  # noqa: E402
from jaxmodels.training import init_state, make_step, place  # noqa: E402

OFF = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
MODEL = jm.GPT2LMHeadModel(jm.GPT2Config(vocab_size=64, n_positions=16, n_embd=32, n_layer=1, n_head=4, **OFF))
IDS = np.random.default_rng(0).integers(0, 64, (8, 16), dtype=np.int32)
# In some, devices of both processes alternate, so that each example of the batch is on both.
MESHES = ((4, 1, (0, 1, 2, 3)), (1, 4, (0, 1, 2, 3)), (2, 2, (0, 2, 1, 3)), (2, 2, (0, 1, 2, 3)))

for data, model, order in MESHES:
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    mesh = jax.sharding.Mesh(np.array([devices[i] for i in order]).reshape(data, model), ("data", "model"))
    sharding, optimizer = {"mesh": mesh, "rules": jm.sharding.FSDP_TP}, optax.sgd(0.1)
    local = IDS[4 * PROCESS : 4 * PROCESS + 4]
    batch = place({"input_ids": local, "labels": local}, **sharding)
    ids = np.asarray(multihost_utils.process_allgather(batch["input_ids"], tiled=True))
    state = init_state(optimizer, jm.init(MODEL, jax.random.key(0), **sharding))
    _, metrics = make_step(MODEL, optimizer, **sharding)(state, batch, jax.random.key(0))
    found = {name: float(metrics[name]) for name in ("loss", "grad_norm")}
    print(json.dumps({**found, "whole": sorted(ids.tolist()) == sorted(IDS.tolist())}), flush=True)
