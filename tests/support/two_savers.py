"""Run as a program: one of two processes that save together, and each reads at once what both have saved.

Arguments: a folder, the process's number, a port. Prints one line of JSON: what this process found after each save, and
the error of a save that cannot work.
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np

jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"127.0.0.1:{sys.argv[3]}", 2, int(sys.argv[2]))

from support.writers import SIZES, see_index, see_model  # noqa: E402

import jaxmodels as jm  # noqa: E402
from jaxmodels.parameters import abstract  # noqa: E402
from jaxmodels.sharding import FSDP, make_mesh, shardings  # noqa: E402


def main(folder: Path) -> None:
    mesh, found = make_mesh({"data": 2}), []
    for version in range(1, 5):
        config = jm.GPT2Config(**SIZES, embd_pdrop=version / 100, generation={"max_length": 50 + version})
        model = jm.GPT2LMHeadModel(config)

        def spread(leaf, place, version=version):
            whole = np.full(leaf.shape, version, np.float32)
            return jax.make_array_from_callback(leaf.shape, place, lambda part: whole[part])

        params = jax.tree.map(spread, abstract(model), shardings(model, mesh, FSDP))
        jm.save(folder / "model", model, params)
        found.append(see_model(folder / "model"))
        rows = np.full((40, 8), version, np.float32)
        jm.DenseIndex(rows, mesh=mesh, fingerprint=str(version)).save(folder / "index")
        found.append(see_index(folder / "index"))
    (folder / "file").touch()
    try:
        jm.save(folder / "file", model, params)
        error = ""
    except (OSError, RuntimeError) as caught:
        error = f"{type(caught).__name__}: {caught}"
    print(json.dumps({"found": found, "error": error}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
