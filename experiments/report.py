"""Output of the language model experiment: setup, results and baselines, loss curve, generated text."""

import math
from collections.abc import Mapping
from pathlib import Path

import jax
from flax import linen as nn
from ml_collections import FrozenConfigDict

import jaxmodels as jm
from jaxmodels.commands.generate import Printer
from jaxmodels.parameters import abstract

from . import baselines, metrics, plots
from .data.packing import Data, Split

THIS_MODEL = "this model"


def print0(text: str) -> None:
    """Print in the first process only."""
    if jax.process_index() == 0:
        print(text, flush=True)


def print_setup(data: Data, model: nn.Module, config: FrozenConfigDict) -> None:
    """Print data, model, devices and number of epochs."""
    for name, split in (("training text", data.train), ("held-out text", data.validation)):
        print0(f"{name}: {split.documents:,} documents, {split.bytes / 1e6:.2f} MB, {len(split.tokens):,} tokens")
    print_model(model)
    seen = config.steps * config.batch_size * config.model.n_positions
    epochs = seen / len(data.train.tokens)
    print0(f"training: {config.steps:,} steps over {seen / 1e6:.2f} million tokens, {epochs:.2f} epochs")


def print_model(model: nn.Module, name: str = "model") -> None:
    """Print number of parameters and devices."""
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract(model)))
    print0(f"{name}: {count / 1e6:.2f} million parameters on {jax.device_count()} x {jax.devices()[0].device_kind}")


def show(result: Mapping, folder: Path) -> None:
    """Print the result as a table."""
    print0("\nbits per byte of the held-out text (lower is better)")
    for name, value in sorted(result["bits_per_byte"].items(), key=lambda item: item[1]):
        print0(f"  {name:12} {value:.3f}{'  <' if name == THIS_MODEL else ''}")
    compare_reloaded("logits", result["logits_after_reload"])
    for name in ("model", "loss.png", "metrics.jsonl", "tensorboard"):
        print0(f"  {folder / name}")


def compare_reloaded(what: str, difference: float) -> None:
    """Print the largest difference between outputs before saving and after loading."""
    same = "equal, bit for bit" if difference == 0 else f"different by up to {difference:.2g}"
    print0(f"saved in Hugging Face's format and loaded again: {what} {same}")


def plot(folder: Path, result: Mapping, train: Split) -> None:
    """Write loss.png, the loss curve of the whole run in bits per byte."""
    rows = metrics.read(folder / "metrics.jsonl")
    steps, losses = metrics.curve(rows, "loss")
    bits = result["bits_per_byte"]
    plots.loss_curve(
        folder / "loss.png",
        (steps, [baselines.bits_per_byte(loss, len(train.tokens), train.bytes) for loss in losses]),
        metrics.curve(rows, "validation_bits_per_byte"),
        title=f"GPT-2, {result['steps']:,} steps: {bits[THIS_MODEL]:.3f} bits per byte of held-out text",
        unit="bits per byte",
        baselines={name: value for name, value in bits.items() if name != THIS_MODEL},
    )


def sample(folder: Path, settings: FrozenConfigDict) -> None:
    """Load the saved model on one device and stream continuations of the prompts to the terminal."""
    model, params = jm.load(folder)
    tokenizer = jm.load_tokenizer(folder)
    options = {name: settings[name] for name in ("max_new_tokens", "temperature", "top_k", "top_p")}
    options["pad_token_id"] = tokenizer.eos_token_id
    for number, prompt in enumerate(settings.prompts):
        ids = tokenizer([prompt])["input_ids"]
        print(f"\n--- {prompt!r}, continued ---\n{prompt}", end="")
        printer = Printer(tokenizer)
        jm.generate(model, params, ids, do_sample=True, key=jax.random.key(number), streamer=printer, **options)
        printer.close()
