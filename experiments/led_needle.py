"""Measure how far away LED finds a fact: thousands of tokens with global tokens, only its windows without them.

What:      sequences of 4,096 random words that start with a question and contain a fact at a random position. The
           decoder sees only the encoder states of the question (`Reader`), so the encoder has to move the answer
           there. Trained twice: with and without global attention on the question
Command:   jaxmodels run led_needle (--config=led_needle)

All output goes to --workdir. If a run is killed, the same command resumes it from the last checkpoint and reaches the
same losses. For a complete run, the command prints the result again; --fresh starts over.
"""

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from ml_collections import FrozenConfigDict

import jaxmodels as jm
from jaxmodels.training import abstract_state, init_state, make_step

from . import command, loop, plots
from .data.needle import BOS, EOS, PAD, QUESTION, Curriculum, Language, at_distance
from .data.published import no_data
from .optimizer import make_optimizer
from .report import print0, print_model

# The arms of the experiment, and whether the tokens of the question are global.
ARMS = {"global": True, "window": False}
MEANINGS = {"global": "question global", "window": "windows only"}


class Reader(nn.Module):
    """An LED that answers the question at the beginning of a sequence with one token.

    The decoder of LED attends to the whole sequence and would find any fact by itself. Here it only sees the encoder
    states of the first QUESTION tokens, so the answer has to pass through the encoder: through global tokens, or
    through stacked windows.
    """

    led: jm.LEDForConditionalGeneration

    def __call__(
        self, input_ids: jax.Array, *, global_attention_mask: jax.Array, labels: jax.Array
    ) -> jm.LEDSeq2SeqLMOutput:
        """Compute loss and logits [B,1,V] of the answers.

        Args:
          input_ids: int [B,T].
          global_attention_mask: int [B,T].
          labels: Answers, int [B,1].
        """
        encoded: Any = self.led.encode(
            input_ids,
            global_attention_mask=global_attention_mask,
            max_global_tokens=QUESTION,
            return_dict=True,
        )
        out: Any = self.led(labels=labels, encoder_outputs=(encoded.last_hidden_state[:, :QUESTION],))
        return out

    def dummy_inputs(self) -> dict[str, jax.Array]:
        """Return the smallest inputs that use every parameter, for initialisation."""
        ids = jnp.zeros((1, QUESTION), jnp.int32)
        return {"input_ids": ids, "global_attention_mask": ids, "labels": ids[:, :1]}


class Experiment:
    """One run: its config, artificial language and model; both arms share the compiled training step."""

    def __init__(self, config: FrozenConfigDict, folder: Path):
        self.config, self.folder = config, folder
        self.language = Language(**config.data)
        self.length = config.curriculum[-1][1]
        model_config = jm.LEDConfig(
            **config.model,
            vocab_size=self.language.vocabulary,
            bos_token_id=BOS,
            pad_token_id=PAD,
            eos_token_id=EOS,
            decoder_start_token_id=EOS,
            max_encoder_position_embeddings=self.length,
            max_decoder_position_embeddings=1,
        )
        self.model = Reader(jm.LEDForConditionalGeneration(model_config, remat=config.remat))
        self.optimizer, self.schedule = make_optimizer(config)
        self._step = make_step(self.model, self.optimizer)
        self._is_correct = jax.jit(partial(_is_correct, self.model))

    @property
    def reach(self) -> int:
        """The largest distance, in tokens, over which the stacked windows of the encoder can move information."""
        return sum(window // 2 for window in self.model.led.config.windows)

    def train(self, arm: str) -> dict:
        """Train one arm, from its last checkpoint if there is one, and return the parameters."""
        config, folder = self.config, self.folder / arm
        folder.mkdir(exist_ok=True)
        examples = Curriculum(self.language, config.curriculum, config.batch_tokens, config.seed, ARMS[arm])
        return loop.train(
            config,
            folder,
            step=self._step,
            init_state=lambda: init_state(self.optimizer, jm.init(self.model, jax.random.key(config.seed))),
            abstract_state=lambda: abstract_state(self.model, self.optimizer),
            data=examples.iterator(),
            place_batch=lambda batch: batch,
            validate=lambda params: {
                "accuracy_everywhere": float(np.mean([*self.test(params, arm, batches=1).values()]))
            },
            schedule=self.schedule,
            items_per_step=(config.batch_tokens, "tokens"),
        )

    def test(self, params: dict, arm: str, batches: int) -> dict[str, float]:
        """Return the accuracy by distance, on sequences of the final length."""
        test, found = self.config.test, {}
        for distance in test.distances:
            examples = at_distance(
                self.language, self.length, distance, batch_size=test.rows, batches=batches, use_global=ARMS[arm]
            )
            found[str(distance)] = float(np.mean([np.asarray(self._is_correct(params, batch)) for batch in examples]))
        return found


def _is_correct(model: Reader, params: dict, batch: dict) -> jax.Array:
    """Return whether each answer is correct, bool [B]."""
    out: Any = model.apply({"params": params}, **batch)
    return jnp.argmax(out.logits[:, 0], axis=-1) == batch["labels"][:, 0]


@command.run_once
def run(config: FrozenConfigDict, folder: Path) -> dict:
    """Run everything that is not done yet and return the result."""
    experiment = Experiment(config, folder)
    print_model(experiment.model)
    result = {
        "steps": config.steps,
        "length": experiment.length,
        "reach": experiment.reach,
        "chance": 1 / config.data.value_words,
        "examples": config.test.rows * config.test.batches,
        "accuracy": {},
    }
    for arm in ARMS:
        print0(f"\n{arm} attention")
        params = experiment.train(arm)
        result["accuracy"][arm] = experiment.test(params, arm, config.test.batches)
    plot_accuracy(folder / "accuracy.png", result)
    return result


def show(result: dict, _config: FrozenConfigDict, folder: Path) -> None:
    print_result(result, folder)


def print_result(result: Mapping, folder: Path) -> None:
    """Print accuracy by distance as a table."""
    tables = result["accuracy"]
    print0(
        f"\naccuracy on {result['examples']} examples of {result['length']:,} tokens; by chance "
        f"{result['chance']:.1%}; the windows reach {result['reach']} tokens"
    )
    print0(f"  {'distance':>9}" + "".join(f"{MEANINGS[arm]:>17}" for arm in tables))
    for distance in tables["global"]:
        print0(f"  {int(distance):9,}" + "".join(f"{table[distance]:17.1%}" for table in tables.values()))
    for name in ("accuracy.png", *(f"{arm}/metrics.jsonl" for arm in tables)):
        print0(f"  {folder / name}")


def plot_accuracy(path: Path, result: Mapping) -> None:
    """Plot accuracy by distance."""
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for (arm, table), color in zip(result["accuracy"].items(), (plots.VALIDATION, "#d95f02"), strict=True):
        axes.plot([*map(int, table)], [*table.values()], color=color, linewidth=2, marker="o", label=MEANINGS[arm])
    axes.axvline(result["reach"], color=plots.MUTED, linewidth=1, linestyle=":")
    axes.annotate(
        f" windows reach {result['reach']}",
        (result["reach"], 0.5),
        color=plots.MUTED,
        fontsize=9,
    )
    axes.axhline(result["chance"], color=plots.MUTED, linewidth=1, linestyle="--")
    axes.annotate(
        f"chance {result['chance']:.1%}",
        (0, result["chance"]),
        xycoords=("axes fraction", "data"),
        xytext=(4, 3),
        textcoords="offset points",
        color=plots.MUTED,
        fontsize=9,
    )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_ylim(0, 1.03)
    axes.set_xlabel("tokens from the question to the answer")
    axes.set_ylabel(f"accuracy on {result['examples']} examples")
    axes.legend(frameon=False, loc="center left")
    axes.set_title(
        f"A fact in {result['length']:,} tokens, {result['steps']:,} training steps", loc="left", color=plots.INK
    )
    axes.spines[["top", "right"]].set_visible(False)
    plots.save(path, figure)


main = partial(command.launch, run, show, "led_needle", no_data)

if __name__ == "__main__":
    main(sys.argv[1:])
