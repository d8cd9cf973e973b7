"""A corpus of passages encoded into an index on disk: in parts, by any number of processes, each part exactly once.

What:      passages of a table like psgs_w100.tsv, of SQuAD, or of a folder of texts, by a DPR context encoder; see
           experiments/configs/encode_squad.py
Command:   python -m experiments.encode_corpus --config=experiments/configs/encode_squad.py \\
               --config.data.path=dev-v1.1.json (SQuAD's; experiments/data/published.py says where it is public)
Wikipedia: python -m experiments.encode_corpus --config.data.kind=tsv --config.data.path=psgs_w100.tsv.gz \\
               --config.encoder=facebook/dpr-ctx_encoder-single-nq-base --config.part_rows=50000 --config.rows=512 \\
               --config.question_encoder=facebook/dpr-question_encoder-single-nq-base --config.dtype=bfloat16
Out:       WORKDIR/index: what jm.DenseIndex.load and jm.Passages.load open, and `python -m jaxmodels ask --index` takes
Hardware:  two virtual cores of an Intel Xeon, float32
Time:      2,067 paragraphs of SQuAD by MiniLM in 15.7 minutes of the clock, 3 of one core's: a lot of other work was on
           the cores. That is 2.0 passages/s, at which Wikipedia takes 123 days: a job for accelerators

It begins and ends with a plan: bytes of each device for this corpus and for Wikipedia, and how long the rest takes.
That the search itself fits beside the rows is compiled for v5e:16x16 in tests/retrieval/test_index_on_tpu.py.

A process encodes on its own devices, and with --config.distributed=True takes its share of the parts. A job that was
killed goes on when the same command is given again, with as many processes as there are then: a part is there whole or
not at all, and ends up the same, bit for bit, as in a job that was not disturbed. --fresh starts over.
"""

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
from jax.experimental import multihost_utils
from ml_collections import FrozenConfigDict
from tqdm import tqdm

import jaxmodels as jm
from experiments import command
from experiments.batch_generation import journal
from experiments.data import published
from experiments.encoding import plan
from experiments.encoding.encoder import Encoder
from experiments.encoding.parts import Parts
from experiments.encoding.sources import passages
from experiments.progress import make_bar
from experiments.report import say
from experiments.retrieval.start import checkpoint
from jaxmodels.chips import slice_of
from jaxmodels.retrieval.index_files import IndexFiles, join_shards
from jaxmodels.retrieval.manifest import MANIFEST
from jaxmodels.retrieval.passages import PASSAGES

INDEX, PARTS = "index", "parts"


def run(config: FrozenConfigDict, folder: Path) -> dict:
    """Every part that is not there yet, then the index."""
    if not config.encoder:
        raise ValueError("encoder is the folder or Hub id of a DPR context encoder, or package:NAME; got nothing")
    for topology in config.topologies:
        slice_of(topology)
    first = jax.process_index() == 0
    if first and not (folder / INDEX / PASSAGES).exists():
        data = config.data
        rows = tqdm(passages(data.kind, data.path, data.passage_words), "passages", unit="passage", mininterval=2)
        jm.Passages.write(folder / INDEX, rows)
    multihost_utils.sync_global_devices("passages")
    texts = jm.Passages.load(folder / INDEX)
    if not len(texts):
        raise ValueError(f"no passage at data.path={config.data.path!r}")
    if (folder / INDEX / MANIFEST).exists():
        say("this job is complete; --fresh encodes again")
        if first:
            shutil.rmtree(folder / PARTS, ignore_errors=True)  # a kill may have left them
        return {"passages": len(texts), "encoded": 0}
    encoder = Encoder(FrozenConfigDict({**config, "encoder": str(checkpoint(config.encoder))}))
    if first:
        sources = {"the encoder": encoder.own, "the question encoder": encoder.fingerprint}
        journal.check_unchanged(folder, sources)
        journal.note(folder, sources)
    for rows in sorted({len(texts), plan.WIKIPEDIA}):
        say(plan.table(rows, encoder.width, config.topologies))
    sizes = [min(config.part_rows, len(texts) - start) for start in range(0, len(texts), config.part_rows)]
    with Parts(folder / PARTS, sizes, jax.process_index()) as parts:
        missing = parts.missing()
        multihost_utils.sync_global_devices("missing parts")
        say(f"{len(texts):,} passages in {len(sizes):,} parts, {len(sizes) - len(missing):,} of them done")
        result = _encode(encoder, texts, parts, sizes, missing[jax.process_index() :: jax.process_count()])
        multihost_utils.sync_global_devices("all parts")
        if first:
            paths = [parts.path(number) for number in range(len(sizes))]
            join_shards(folder / INDEX, paths, encoder.fingerprint, texts.digest)
            IndexFiles(folder / INDEX)  # compares every shard with the manifest
            shutil.rmtree(folder / PARTS)
    return {"passages": len(texts), "width": encoder.width, **result}


def show(result: dict, config: FrozenConfigDict, folder: Path) -> None:
    if result["encoded"]:
        speed, needed = result["speed"], plan.duration(plan.WIKIPEDIA / result["speed"])
        say(f"\n{result['encoded']:,} passages in {plan.duration(result['seconds'])}, compilation included")
        say(f"{speed:,.1f} passages/s by this process; {plan.WIKIPEDIA:,} take it {needed}, and n processes an nth")
    say(f"{result['passages']:,} passages with their vectors: {folder / INDEX}")


def _encode(encoder: Encoder, texts: jm.Passages, parts: Parts, sizes: list[int], mine: list[int]) -> dict:
    """Encodes and notes these parts, one after the other."""
    starts = [number * sizes[0] for number in mine]
    began = time.perf_counter()
    times: list[float] = []
    bar = make_bar(sum(sizes[number] for number in mine), "passage", disable=jax.process_index() != 0)

    def tokenized(place: int):
        return encoder.tokenize([texts[i] for i in range(starts[place], starts[place] + sizes[mine[place]])])

    # The next part is tokenized while this one is encoded.
    with bar, ThreadPoolExecutor(1) as ahead:
        coming = ahead.submit(tokenized, 0) if mine else None
        for place, number in enumerate(mine):
            tokens, since = coming.result(), time.perf_counter()
            coming = ahead.submit(tokenized, place + 1) if place + 1 < len(mine) else None
            parts.add(number, encoder.encode(tokens, bar.update))
            times.append(time.perf_counter() - since)
            bar.set_postfix_str(f"{len(mine) - place - 1} parts to go", refresh=False)
    # The first part waited for the compiler, if there are others.
    steady = slice(1 if len(mine) > 1 else 0, None)
    speed = sum(sizes[number] for number in mine[steady]) / sum(times[steady]) if mine else 0.0
    encoded = sum(sizes[number] for number in mine)
    return {"encoded": encoded, "seconds": time.perf_counter() - began, "speed": speed}


if __name__ == "__main__":
    command.start(run, show, "experiments/configs/encode_squad.py", published.of_kind)
