"""Generate text from a prompt with a pretrained model.

A decoder-only model continues the prompt; an encoder-decoder takes it as its input. The new text is streamed to
standard output (printed at the end with beam search), the throughput is printed to standard error.
"""

import argparse
import sys
import time
from typing import Any

import jax
import numpy as np

from jaxmodels.architectures import AUTO
from jaxmodels.architectures.base import Model
from jaxmodels.commands.convert import load_checkpoint
from jaxmodels.generation import GenerationConfig, generate
from jaxmodels.tokenization import load_tokenizer
from jaxmodels.tokenization.base import Tokenizer

HELP = "generate text from a prompt"
GENERATING = (*AUTO["AutoModelForCausalLM"].values(), *AUTO["AutoModelForSeq2SeqLM"].values())
# Options of `jaxmodels.generate`; those that are not passed keep the checkpoint's settings.
OPTIONS: dict[str, tuple[type, str]] = {
    "max_new_tokens": (int, "maximum number of tokens to generate (default: 64)"),
    "num_beams": (int, "number of beams; above 1 uses beam search"),
    "length_penalty": (float, "beam search: exponent of the length normalisation; above 0 favours longer sequences"),
    "no_repeat_ngram_size": (int, "forbid repeating any n-gram of this size"),
    "repetition_penalty": (float, "penalise tokens that already occurred; 1 is no penalty"),
    "temperature": (float, "sampling temperature; above 1 flattens the distribution, below 1 sharpens it"),
    "top_k": (int, "sample from the k most likely tokens"),
    "top_p": (float, "nucleus sampling: sample from the most likely tokens with this total probability"),
}
SAMPLING = ("temperature", "top_k", "top_p", "seed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    parser.add_argument("model", help="folder or Hub id of a model with its tokenizer")
    parser.add_argument("prompt", help="text prompt; - reads it from standard input")
    for name, (option_type, text) in OPTIONS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=option_type, help=text)
    parser.add_argument("--seed", type=int, help="random seed for sampling (default: 0)")
    parser.add_argument(
        "--sample",
        action=argparse.BooleanOptionalAction,
        help="sample instead of greedy decoding or beam search (implied by --temperature, --top-k, --top-p and --seed)",
    )
    parser.add_argument(
        "--class", dest="cls", metavar="CLASS", help="model class or auto class (default: from the config)"
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="dtype of computation and parameters (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Prints the text, and on standard error the number of tokens and the throughput."""
    options = generation_options(arguments)
    text = sys.stdin.read().removesuffix("\n") if arguments.prompt == "-" else arguments.prompt
    found = load_checkpoint(arguments.model, cls=arguments.cls, dtype=arguments.dtype)
    model = found.model
    if not isinstance(model, GENERATING):
        names = ", ".join(cls.__name__ for cls in GENERATING)
        raise ValueError(
            f"{arguments.model} is of class {type(model).__name__}, which cannot generate; pass --class, one of "
            f"{names}, or use the command `ask` for RAG models"
        )
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    # No limit here: `encode_prompt` checks the length against the model.
    tokenizer = load_tokenizer(arguments.model, model_max_length=None)
    settings = GenerationConfig.merge(model.config, None, options)
    if settings.num_beams == 1 and arguments.length_penalty is not None:
        raise ValueError("--length-penalty is for beam search: pass --num-beams above 1, or leave it out")
    if settings.pad_token_id is None and settings.eos_token_id:
        options["pad_token_id"] = settings.eos_token_id[0]
    inputs: dict[str, Any] = encode_prompt(model, tokenizer, text)
    key = jax.random.key(arguments.seed or 0) if settings.do_sample else None
    printer = Printer(tokenizer)
    streamer = None if settings.num_beams > 1 else printer
    result = generate(model, found.params, **inputs, key=key, streamer=streamer, **options)
    if streamer is None:
        start = 1 if model.config.is_encoder_decoder else inputs["input_ids"].shape[1]
        ids = np.asarray(result.sequences)[0, start:]
        ends = np.isin(ids, settings.eos_token_id)
        printer.set_tokens(ids[: ends.argmax() + 1] if ends.any() else ids)
    printer.close()


def encode_prompt(model: Model, tokenizer: Tokenizer, text: str) -> dict[str, np.ndarray]:
    """Returns the model's inputs [1,T].

    For a decoder-only model, special tokens that the tokenizer puts after a text are left out.

    Raises:
      ValueError: a prompt that is empty or too long, or a tokenizer of another model.
    """
    if model.config.is_encoder_decoder:
        ids, max_length = [*tokenizer(text)["input_ids"]], model.max_source_tokens
    else:
        prefix = tokenizer("")["input_ids"][:1]
        ids, max_length = [*prefix, *tokenizer(text, add_special_tokens=False)["input_ids"]], model.max_tokens - 1
    if not text or not ids:
        raise ValueError("the prompt is empty")
    if max(ids) >= model.config.vocab_size:
        raise ValueError(
            f"the tokenizer's id {max(ids)} is outside the model's vocabulary of {model.config.vocab_size}; "
            "does the tokenizer belong to another model?"
        )
    if len(ids) > max_length:
        raise ValueError(f"the prompt has {len(ids):,} tokens, but this model accepts {max_length:,}; shorten it")
    inputs = {"input_ids": np.asarray([ids], np.int32)}
    inputs["attention_mask"] = np.ones_like(inputs["input_ids"])
    if "global_attention_mask" in getattr(model, "encoding_options", ()):
        # As in LED's training for summarisation, the first token has global attention.
        inputs["global_attention_mask"] = np.zeros_like(inputs["input_ids"])
        inputs["global_attention_mask"][:, 0] = 1
    return inputs


class Printer:
    """Streams decoded tokens to standard output."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer, self._ids, self._num_written = tokenizer, list[int](), 0
        self._start, self._first = time.perf_counter(), 0.0

    def __call__(self, tokens: np.ndarray) -> None:
        """Appends the next token of a single sequence, tokens [1]."""
        self._first = self._first or time.perf_counter()
        self._ids.append(int(tokens[0]))
        self._write(self._text().rstrip("\ufffd"))

    def set_tokens(self, ids: np.ndarray) -> None:
        """Sets all tokens [T] at once."""
        self._ids = ids.tolist()

    def close(self) -> None:
        """Writes the remaining text, and the throughput to standard error."""
        end = time.perf_counter()
        self._write(self._text())
        print(flush=True)
        count = len(self._ids)
        summary = f"{count} tokens in {end - self._start:.2f} s, including compilation"
        if self._first and count > 1:
            # The first token waited for the compiler.
            summary += f"; after the first token {(count - 1) / (end - self._first):,.1f} tokens/s"
        print(summary, file=sys.stderr)

    def _text(self) -> str:
        # No clean-up of spaces, since it could change text that is already written.
        return self._tokenizer.decode(self._ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _write(self, text: str) -> None:
        # A character of several bytes may span several tokens; until it is complete it decodes to \ufffd.
        sys.stdout.write(text[self._num_written :])
        sys.stdout.flush()
        self._num_written = max(self._num_written, len(text))


def generation_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the options of `jaxmodels.generate` that were passed.

    Raises:
      ValueError: sampling options together with --no-sample.
    """
    options = {name: getattr(arguments, name) for name in OPTIONS if getattr(arguments, name) is not None}
    sampling = [name for name in SAMPLING if getattr(arguments, name) is not None]
    if sampling and arguments.sample is False:
        raise ValueError(
            f"--{sampling[0].replace('_', '-')} is for sampling, which --no-sample turns off; leave one of them out"
        )
    if sampling or arguments.sample is not None:
        options["do_sample"] = arguments.sample is not False
    return {"max_new_tokens": 64, "num_return_sequences": 1, **options}
