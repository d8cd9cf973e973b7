"""Texts for a file of prompts: JSON lines in, JSON lines out, by any model of the library that generates.

What:      a model in a folder continues, or answers, every line's "prompt"; see experiments/configs/generate.py
Command:   python -m experiments.generate --config=experiments/configs/generate.py --config.model.path=MODEL \\
               --config.input=prompts.jsonl --workdir=runs/answers --config.generate.num_beams=4
In:        {"prompt": "...", "id": "...", ...}, one a line. The id is a text or a number that no other line has; without
           one it is the line's number. LED also reads a "query", whose tokens are global. Other fields are kept.
Out:       the line's fields with "text", or "texts" for num_return_sequences above 1; and "score" or "scores" of a
           beam search (the sum of log-probabilities by length ** length_penalty). The text of a decoder-only model is
           what follows the prompt. WORKDIR/finished.jsonl has them as they were finished, WORKDIR/output.jsonl in the
           order of the input, once all are there.

Bad lines are named before anything is generated. A job that was killed goes on when the same command is given again: no
line is lost or there twice, and its texts are those of a job that was not disturbed. What is drawn for a line depends
on its id and the seed, not on where it stands. A job whose input, model or options have changed is refused;
--fresh starts over.
"""

import time
from pathlib import Path

from ml_collections import FrozenConfigDict

import jaxmodels as jm
from experiments import command
from experiments.batch_generation import journal, lines, plan
from experiments.batch_generation.journal import Journal
from experiments.batch_generation.prompts import Prompt, looks_at_padding, tokenize
from experiments.batch_generation.writer import Writer, chosen
from experiments.progress import make_bar
from experiments.report import introduce_model, say
from jaxmodels.architectures import AUTO
from jaxmodels.architectures.base import Model
from jaxmodels.generation import recompiles
from jaxmodels.hub.checkpoint import checkpoint_folder
from jaxmodels.tokenization.base import Tokenizer

OUTPUT, FINISHED = "output.jsonl", "finished.jsonl"
GENERATING = (*AUTO["AutoModelForCausalLM"].values(), *AUTO["AutoModelForSeq2SeqLM"].values())


def run(config: FrozenConfigDict, folder: Path) -> dict:
    """Every text that is not there yet, then the ordered file."""
    if config.distributed:
        raise ValueError(
            "distributed: a job is one process; give each process a part of the input and its own --workdir"
        )
    chosen(config)
    file, model_folder = Path(config.input), checkpoint_folder(config.model.path)
    found, problems = lines.read(file)
    # No text is too long for the tokenizer: whether it is for the model is checked below.
    tokenizer = jm.load_tokenizer(config.model.path, model_max_length=None)
    sources = {"the input": journal.of_file(file), "the model": journal.of_folder(model_folder)}
    journal.check_unchanged(folder, sources)
    if (folder / OUTPUT).exists():
        say("this job is complete; --fresh generates again")
        return {"texts": len(found), "generated": 0}
    writer, model = _writer(config, tokenizer)
    prompts, more = tokenize(found, tokenizer, model, writer.settings)
    lines.refuse(file, [*problems, *more])
    journal.note(folder, sources)
    one_length = looks_at_padding(model, writer.settings)
    batches = plan.batches([len(prompt.ids) for prompt in prompts], config.batch_size, one_length=one_length)
    introduce_model(model)
    with Journal(folder / FINISHED) as done:
        total = sum(len(prompt.ids) for prompt in prompts)
        say(f"input: {len(prompts):,} prompts of {total:,} tokens in {len(batches):,} batches; {len(done.done):,} done")
        result = _generate(writer, [[prompts[place] for place in batch] for batch in batches], done)
        done.write_ordered(folder / OUTPUT, (line.id for line in found))
    return {"texts": len(prompts), **result}


def wanted(_config) -> dict[str, str]:
    return {"model.path": "a model: a folder, or an id of the Hub", "input": "JSON lines with a prompt each"}


def show(result: dict, _config: FrozenConfigDict, folder: Path) -> None:
    if result["generated"]:
        texts, tokens, seconds = (result[name] for name in ("generated", "tokens", "seconds"))
        say(f"{texts:,} texts of {tokens:,} tokens in {seconds:.1f} s: {tokens / seconds:,.0f} tokens/s")
        say(f"decoding loops compiled: {result['programs']}\n{jm.explain_recompiles()}")
    say(f"{result['texts']:,} texts in the order of the input: {folder / OUTPUT}")


def _writer(config: FrozenConfigDict, tokenizer: Tokenizer) -> tuple[Writer, Model]:
    choices = {"cls": config.model.cls, "dtype": config.dtype, "param_dtype": config.dtype, **config.model.changes}
    model, params = jm.load(config.model.path, **choices)
    if not isinstance(model, GENERATING):
        names = ", ".join(cls.__name__ for cls in GENERATING)
        raise ValueError(f"{type(model).__name__} does not generate; give model.cls, one of {names}")
    return Writer(model, params, tokenizer, config), model


def _generate(writer: Writer, batches: list[list[Prompt]], done: Journal) -> dict:
    """Generates and notes what is not done, batch by batch as they were planned."""
    began, before, tokens = time.perf_counter(), len(done.done), 0
    slots = max(prompt.wide for batch in batches for prompt in batch)
    with make_bar(sum(map(len, batches)), "text", initial=before) as bar:
        for batch in batches:
            missing = len([prompt for prompt in batch if prompt.line.id not in done.done])
            if not missing:
                continue
            written = writer.write(batch, slots)
            done.add(written.rows)
            tokens += written.tokens
            speed = tokens / (time.perf_counter() - began)
            bar.set_postfix_str(f"{speed:,.0f} tokens/s, {recompiles.compiled()} programs compiled", refresh=False)
            bar.update(missing)
    return {
        "generated": len(done.done) - before,
        "tokens": tokens,
        "seconds": time.perf_counter() - began,
        "programs": recompiles.compiled(),
    }


if __name__ == "__main__":
    command.start(run, show, "experiments/configs/generate.py", wanted)
