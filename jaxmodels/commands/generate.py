"""`python -m jaxmodels generate MODEL "prompt"`: text in, text out.

A decoder-only model continues the prompt, an encoder-decoder answers it; what is new goes to standard output as it
comes (of a beam search: at the end), how fast it came to standard error.
"""

import argparse
import sys
import time
from typing import Any

import jax
import numpy as np

from jaxmodels.architectures import AUTO
from jaxmodels.architectures.base import Model
from jaxmodels.commands.reading import read
from jaxmodels.generation import GenerationConfig, generate
from jaxmodels.tokenization import load_tokenizer
from jaxmodels.tokenization.base import Tokenizer

HELP = "continue a text, or answer it with an encoder-decoder"
GENERATING = (*AUTO["AutoModelForCausalLM"].values(), *AUTO["AutoModelForSeq2SeqLM"].values())
# Options of the library under the same names; those that were not given are left to the checkpoint.
OPTIONS = {
    "max_new_tokens": (int, "tokens of the text (default: 64)"),
    "num_beams": (int, "of a beam search"),
    "length_penalty": (float, "of a beam search: above 0 prefers longer texts"),
    "no_repeat_ngram_size": (int, "so many tokens in a row come once only"),
    "repetition_penalty": (float, "above 1 makes tokens less likely that were there"),
    "temperature": (float, "samples: above 1 flattens the distribution, below 1 sharpens it"),
    "top_k": (int, "samples: from so many likeliest tokens"),
    "top_p": (float, "samples: from the likeliest tokens of so much probability"),
}
SAMPLING = ("temperature", "top_k", "top_p", "seed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="folder or Hub id, with its tokenizer")
    parser.add_argument("prompt", help="the text, or - for standard input")
    for name, (kind, text) in OPTIONS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help=text)
    parser.add_argument("--seed", type=int, help="samples: another one, another text (default: 0)")
    parser.add_argument(
        "--sample", action=argparse.BooleanOptionalAction, help="draw tokens; default: where one of the above says so"
    )
    parser.add_argument("--class", dest="cls", metavar="CLASS", help="class or auto class; default: the config's own")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")


def run(arguments: argparse.Namespace) -> None:
    """Prints the text, then on standard error the number of its tokens and their rate."""
    options = options_of(arguments)
    text = sys.stdin.read().removesuffix("\n") if arguments.prompt == "-" else arguments.prompt
    found = read(arguments.model, cls=arguments.cls, dtype=arguments.dtype)
    model = found.model
    if not isinstance(model, GENERATING):
        names = ", ".join(cls.__name__ for cls in GENERATING)
        raise ValueError(
            f"{arguments.model} is of class {type(model).__name__}, which does not generate; give --class, one of "
            f"{names}; a RAG's command is ask"
        )
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    # No text is too long for the tokenizer: whether it is for the model is checked below.
    tokenizer = load_tokenizer(arguments.model, model_max_length=None)
    settings = GenerationConfig.merge(model.config, None, options)
    if settings.num_beams == 1 and arguments.length_penalty is not None:
        raise ValueError("--length-penalty is of a beam search: give --num-beams above 1 with it, or leave it out")
    if settings.pad_token_id is None and settings.eos_token_id:
        options["pad_token_id"] = settings.eos_token_id[0]
    inputs = encode(model, tokenizer, text)
    key = jax.random.key(arguments.seed or 0) if settings.do_sample else None
    printer = Printer(tokenizer)
    streamer = None if settings.num_beams > 1 else printer
    result = generate(model, found.params, **inputs, key=key, streamer=streamer, **options)
    if streamer is None:
        start = 1 if model.config.is_encoder_decoder else inputs["input_ids"].shape[1]
        ids = np.asarray(result.sequences)[0, start:]
        ends = np.isin(ids, settings.eos_token_id)
        printer.finish(ids[: ends.argmax() + 1] if ends.any() else ids)
    printer.close()


def encode(model: Model, tokenizer: Tokenizer, text: str) -> dict[str, np.ndarray]:
    """The model's inputs [1,T]. What goes on has what the tokenizer puts before a text, but not what it puts after.

    Raises:
      ValueError: a text without tokens, or of more than the model reads; a tokenizer of another model.
    """
    if model.config.is_encoder_decoder:
        ids, most = [*tokenizer(text)["input_ids"]], model.max_source_tokens
    else:
        before = tokenizer("")["input_ids"][:1]
        ids, most = [*before, *tokenizer(text, add_special_tokens=False)["input_ids"]], model.max_tokens - 1
    if not text or not ids:
        raise ValueError("the prompt is empty")
    if max(ids) >= model.config.vocab_size:
        raise ValueError(
            f"the tokenizer's id {max(ids)} is outside the model's vocabulary of {model.config.vocab_size}; "
            f"is it another model's?"
        )
    if len(ids) > most:
        raise ValueError(f"the prompt has {len(ids):,} tokens, and this model reads {most:,}; cut it")
    inputs = {"input_ids": np.asarray([ids], np.int32)}
    inputs["attention_mask"] = np.ones_like(inputs["input_ids"])
    if "global_attention_mask" in getattr(model, "encoding_options", ()):
        # As LED was trained for summaries: the first token sees all, and is seen by all.
        inputs["global_attention_mask"] = np.zeros_like(inputs["input_ids"])
        inputs["global_attention_mask"][:, 0] = 1
    return inputs


class Printer:
    """Writes a text to standard output as its tokens come."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer, self._ids, self._shown = tokenizer, [], 0
        self._began, self._first = time.perf_counter(), 0.0

    def __call__(self, tokens: np.ndarray) -> None:
        """Takes the next token of the one row."""
        self._first = self._first or time.perf_counter()
        self._ids.append(int(tokens[0]))
        self._write(self._text().rstrip("\ufffd"))

    def finish(self, ids: np.ndarray) -> None:
        """Takes a whole text [T]."""
        self._ids = ids.tolist()

    def close(self) -> None:
        """Writes what is left, and the rate."""
        ended = time.perf_counter()
        self._write(self._text())
        print(flush=True)
        spent, count = ended - self._began, len(self._ids)
        told = f"{count} tokens in {spent:.2f} s, with the time to compile"
        if self._first and count > 1:
            # The first token waited for the compiler.
            told += f"; after the first one {(count - 1) / (ended - self._first):,.1f} tokens/s"
        print(told, file=sys.stderr)

    def _text(self) -> str:
        # Spaces are left as they are: what was written cannot be cleaned up.
        return self._tokenizer.decode(self._ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _write(self, text: str) -> None:
        # A character of several bytes can come in several tokens; until then its last bytes decode to \ufffd.
        sys.stdout.write(text[self._shown :])
        sys.stdout.flush()
        self._shown = max(self._shown, len(text))


def options_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Of the library's `generate`, those that were given.

    Raises:
      ValueError: options of sampling beside --no-sample.
    """
    options = {name: getattr(arguments, name) for name in OPTIONS if getattr(arguments, name) is not None}
    drawing = [name for name in SAMPLING if getattr(arguments, name) is not None]
    if drawing and arguments.sample is False:
        raise ValueError(
            f"--{drawing[0].replace('_', '-')} is of sampling, and --no-sample asks for none; leave one out"
        )
    if drawing or arguments.sample is not None:
        options["do_sample"] = arguments.sample is not False
    return {"max_new_tokens": 64, "num_return_sequences": 1, **options}
