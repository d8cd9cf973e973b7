"""Generate texts for a file of prompts: JSON lines in, JSON lines out, with any generative model of the library.

What:      a model continues or answers the "prompt" of every line; see configs/generate.py
Command:   jaxmodels run generate --config=generate --config.model.path=MODEL \\
               --config.input=prompts.jsonl --workdir=runs/answers --config.generate.num_beams=4
Input:     {"prompt": "...", "id": "...", ...} on each line. The id is a unique string or number; by default, it is the
           line number. LED also reads a "query", whose tokens are global. Other fields are copied to the output.
Output:    the fields of the line with "text", or "texts" if num_return_sequences is above 1; for beam search also
           "score" or "scores" (the sum of log-probabilities divided by length ** length_penalty). For a decoder-only
           model, the text does not include the prompt. WORKDIR/finished.jsonl has the results in the order of
           completion, WORKDIR/output.jsonl in the order of the input, once all are complete.

Invalid lines are reported before anything is generated. If the job is killed, the same command resumes it: no line is
lost or duplicated, and the texts are the same as in an uninterrupted job. Random sampling for a line depends on its id
and the seed, not on its position. If input, model or options have changed, the job is rejected; --fresh starts over.
"""

import sys
import time
from functools import partial
from pathlib import Path

from ml_collections import FrozenConfigDict

import jaxmodels as jm
from jaxmodels.architectures import AUTO
from jaxmodels.architectures.base import Model
from jaxmodels.generation.loop import num_compiled
from jaxmodels.hub.checkpoint import checkpoint_folder
from jaxmodels.tokenization.base import Tokenizer

from . import command
from .batch_generation import journal
from .batch_generation.journal import Journal
from .batch_generation.prompts import (
    Prompt,
    is_padding_sensitive,
    plan_batches,
    raise_problems,
    read_lines,
    tokenize,
)
from .batch_generation.writer import BatchGenerator, generate_options
from .progress import progress_bar
from .report import print0, print_model

OUTPUT, FINISHED = "output.jsonl", "finished.jsonl"
GENERATING = (*AUTO["AutoModelForCausalLM"].values(), *AUTO["AutoModelForSeq2SeqLM"].values())


def run(config: FrozenConfigDict, folder: Path) -> dict:
    """Generate every text that is missing, then write the ordered file."""
    if config.distributed:
        raise ValueError(
            "config.distributed is not supported: a job runs in one process; start one job per part of the input, each "
            "with a separate --workdir"
        )
    generate_options(config)
    file, model_folder = Path(config.input), checkpoint_folder(config.model.path)
    found, problems = read_lines(file)
    # The tokenizer does not check the length; `tokenize` checks it against the model.
    tokenizer = jm.load_tokenizer(config.model.path, model_max_length=None)
    sources = {"the input": journal.hash_file(file), "the model": journal.hash_folder(model_folder)}
    journal.check_unchanged(folder, sources)
    if (folder / OUTPUT).exists():
        print0("this job is complete; pass --fresh to generate again")
        return {"texts": len(found), "generated": 0}
    generator, model = _make_generator(config, tokenizer)
    prompts, more = tokenize(found, tokenizer, model, generator.settings)
    raise_problems(file, [*problems, *more])
    journal.record_sources(folder, sources)
    one_length = is_padding_sensitive(model, generator.settings)
    batches = plan_batches([len(prompt.ids) for prompt in prompts], config.batch_size, one_length=one_length)
    print_model(model)
    with Journal(folder / FINISHED) as done:
        total = sum(len(prompt.ids) for prompt in prompts)
        print0(
            f"input: {len(prompts):,} prompts of {total:,} tokens in {len(batches):,} batches; {len(done.done):,} done"
        )
        result = _generate(generator, [[prompts[index] for index in batch] for batch in batches], done)
        done.write_ordered(folder / OUTPUT, (line.id for line in found))
    return {"texts": len(prompts), **result}


def required_data(_config: FrozenConfigDict) -> dict[str, str]:
    return {"model.path": "a model: a folder or a Hub id", "input": "JSON lines, each with a prompt"}


def show(result: dict, _config: FrozenConfigDict, folder: Path) -> None:
    if result["generated"]:
        texts, tokens, seconds = (result[name] for name in ("generated", "tokens", "seconds"))
        print0(f"{texts:,} texts of {tokens:,} tokens in {seconds:.1f} s: {tokens / seconds:,.0f} tokens/s")
        print0(f"decoding loops compiled: {result['programs']}\n{jm.explain_recompiles()}")
    print0(f"{result['texts']:,} texts in the order of the input: {folder / OUTPUT}")


def _make_generator(config: FrozenConfigDict, tokenizer: Tokenizer) -> tuple[BatchGenerator, Model]:
    options = {"cls": config.model.cls, "dtype": config.dtype, "param_dtype": config.dtype, **config.model.changes}
    model, params = jm.load(config.model.path, **options)
    if not isinstance(model, GENERATING):
        names = ", ".join(cls.__name__ for cls in GENERATING)
        raise ValueError(f"{type(model).__name__} cannot generate text; set config.model.cls to one of {names}")
    return BatchGenerator(model, params, tokenizer, config), model


def _generate(generator: BatchGenerator, batches: list[list[Prompt]], done: Journal) -> dict:
    """Generate the missing texts of each batch and add them to the journal."""
    start, before, tokens = time.perf_counter(), len(done.done), 0
    max_global_tokens = max(prompt.num_global for batch in batches for prompt in batch)
    with progress_bar(sum(map(len, batches)), "text", initial=before) as bar:
        for batch in batches:
            missing = len([prompt for prompt in batch if prompt.line.id not in done.done])
            if not missing:
                continue
            generated = generator.generate(batch, max_global_tokens)
            done.add(generated.rows)
            tokens += generated.tokens
            speed = tokens / (time.perf_counter() - start)
            bar.set_postfix_str(f"{speed:,.0f} tokens/s, {num_compiled()} programs compiled", refresh=False)
            bar.update(missing)
    return {
        "generated": len(done.done) - before,
        "tokens": tokens,
        "seconds": time.perf_counter() - start,
        "programs": num_compiled(),
    }


main = partial(command.launch, run, show, "generate", required_data)

if __name__ == "__main__":
    main(sys.argv[1:])
