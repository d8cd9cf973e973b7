"""Run the notebooks of experiments/notebooks and store their outputs in them.

    make notebooks
    python tests/tools/notebooks.py [NAME ...]

They share a process, a kernel of Jupyter in the environment of the tests, and each starts with an empty namespace. A
digest of the code is stored with the outputs, by which a test recognises outputs of older code.
"""

import hashlib
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "experiments" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
DIGEST = "executed"  # key of a notebook's metadata
TIMEOUT = 600  # seconds for a cell
# Without these libtpu looks for a TPU, and logs on standard error that there is none.
NO_TPU = {"TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-4", "TPU_WORKER_HOSTNAMES": "localhost"}
# Warnings of the environment, not of the code: tqdm without widgets, and programs for TPUs in the cache.
EXPECTED = ("IProgress not found", "Error reading persistent compilation cache entry")
NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")


def main(names: Iterable[str] = ()) -> None:
    sys.path.insert(0, str(ROOT / "tests"))
    from support import environment

    environment.prepare()
    chosen = [FOLDER / f"{Path(name).stem}.ipynb" for name in names] or NOTEBOOKS
    with kernel() as manager:
        for path in chosen:
            nbformat.write(executed(path, manager), path)
            print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB", flush=True)


@contextmanager
def kernel() -> Iterator[KernelManager]:
    """A kernel whose modules are those of this tree, in the environment of this process."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = {**os.environ, **NO_TPU, "PYTHONPATH": os.pathsep.join(paths)}
    variables["PYTHONWARNINGS"] = ",".join(f"ignore:{message}" for message in EXPECTED)
    variables.pop("MPLBACKEND", None)  # the kernel's own makes outputs of figures
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(env=variables, cwd=str(FOLDER))
    try:
        yield manager
    finally:
        manager.shutdown_kernel(now=True)


def executed(path: Path, manager: KernelManager) -> NotebookNode:
    """Returns the notebook with new outputs.

    Raises:
      CellExecutionError: a cell raised.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, km=manager, timeout=TIMEOUT, record_timing=False, coalesce_streams=True)
    with client.setup_kernel():
        client.kc.execute_interactive("%reset -f\n%matplotlib inline", store_history=False)
        client.execute()
        client.kc.stop_channels()
    notebook.metadata.language_info = {"name": "python"}  # without the version
    notebook.metadata[DIGEST] = digest(notebook)
    for cell in code_cells(notebook):
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = cell.execution_count  # the kernel counts on from notebook to notebook
    return notebook


def digest(notebook: NotebookNode) -> str:
    """A digest of the code."""
    return hashlib.sha256("\0".join(cell.source for cell in code_cells(notebook)).encode()).hexdigest()[:16]


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(notebook: NotebookNode) -> dict[str, list[tuple[str, str]]]:
    """By cell, the type and the text of each output; of a figure only that it is one."""
    return {cell.id: [_text(output) for output in cell.outputs] for cell in code_cells(notebook)}


def _text(output: NotebookNode) -> tuple[str, str]:
    if output.output_type == "stream":
        return output.name, output.text
    if output.output_type == "error":
        return "error", output.evalue
    return ("figure", "") if "image/png" in output.data else ("result", output.data["text/plain"])


def numbers(text: str) -> tuple[str, list[float]]:
    """The text with its numbers taken out, and the numbers."""
    return NUMBER.sub("#", text), [float(number.replace(",", "")) for number in NUMBER.findall(text)]


if __name__ == "__main__":
    main(sys.argv[1:])
