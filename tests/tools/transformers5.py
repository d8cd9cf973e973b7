"""Test compatibility with transformers 5: it writes models that we read, and reads models that we write.

    python tests/tools/transformers5.py write FOLDER
    python tests/tools/transformers5.py read FOLDER

In the tests' own environment; the release with what it needs goes into .venv/transformers5 (280 MB, a minute), before
torch on the path. FOLDER holds models.json: {name: {"class": ..., "config": ..., "inputs": {argument: list}}}, with
"head": "own" where a head that is made as a copy of the embeddings gets other values.

`write` makes each with random weights and saves it in FOLDER/name. `read` loads each from there. Both write
FOLDER/name/outputs.npz, the arrays of the output.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VERSION = "5.24.0"
PACKAGES = ROOT / ".venv" / "transformers5"


def install() -> None:
    """Install the release; raise subprocess.CalledProcessError if pip fails, with the reason in stderr."""
    stamp = PACKAGES / f"stamp-{VERSION}"
    if not stamp.exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--upgrade", "--target", str(PACKAGES)]
        subprocess.run([*command, f"transformers=={VERSION}"], capture_output=True, text=True, check=True)
        stamp.touch()


def run(*arguments: str | Path, script: str = __file__) -> None:
    """Run a script, by default this one, with release 5."""
    environment = {**os.environ, "PYTHONPATH": str(PACKAGES), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    command = [sys.executable, script, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"transformers {VERSION}: {done.stderr[-2000:]}")


def make(transformers, torch, case: dict):
    """Create a model with random weights that are not close to zero."""
    cls = getattr(transformers, case["class"])
    model = cls(cls.config_class(**case["config"]))
    if case.get("head") == "own":
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale_of_norm = parameter.ndim == 1 and name.endswith("weight")
            parameter.normal_(1.0 if scale_of_norm else 0.0, 0.15)
    return model


def save_outputs(torch, numpy, model, inputs: dict, path: Path) -> None:
    tensors = {key: torch.tensor(value) for key, value in inputs.items()}
    with torch.no_grad():
        found = model.eval()(**tensors)
    numpy.savez(path, **{key: value.numpy() for key, value in found.items() if torch.is_tensor(value)})


def main(action: str, folder: Path) -> None:
    import numpy
    import torch
    import transformers

    assert transformers.__version__ == VERSION
    torch.manual_seed(0)
    for name, case in json.loads((folder / "models.json").read_text()).items():
        if action == "write":
            model = make(transformers, torch, case)
            model.save_pretrained(folder / name)
        else:
            model = getattr(transformers, case["class"]).from_pretrained(folder / name)
        save_outputs(torch, numpy, model, case["inputs"], folder / name / "outputs.npz")


if __name__ == "__main__":
    install()
    if os.environ.get("PYTHONPATH") == str(PACKAGES):
        main(sys.argv[1], Path(sys.argv[2]))
    else:
        run(*sys.argv[1:])
