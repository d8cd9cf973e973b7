"""Encode a corpus of passages into an index on disk: in parts, by any number of processes, each part exactly once.

What:      passages from a table like psgs_w100.tsv, from SQuAD, or from a folder of texts, encoded by a DPR context
           encoder; see configs/encode_squad.py
Command:   jaxmodels run encode_corpus --config=encode_squad \\
               --config.data.path=dev-v1.1.json (SQuAD; download: see data/published.py)
Wikipedia: jaxmodels run encode_corpus --config.data.kind=tsv --config.data.path=psgs_w100.tsv.gz \\
               --config.encoder=facebook/dpr-ctx_encoder-single-nq-base --config.part_rows=50000 --config.rows=512 \\
               --config.question_encoder=facebook/dpr-question_encoder-single-nq-base --config.dtype=bfloat16
Output:    WORKDIR/index, for jm.DenseIndex.load, jm.Passages.load and `jaxmodels ask --index`

The script prints the memory per device for this corpus and for Wikipedia, and finally the expected duration for
Wikipedia. tests/retrieval/test_index_on_tpu.py compiles the search for v5e:16x16 to check that it fits next to the
vectors.

Each process encodes on its local devices; with --config.distributed=True, each one takes its share of the parts. If the
job is killed, the same command resumes it, with any number of processes. Parts are written atomically, and are bit for
bit the same as in an uninterrupted job. --fresh starts over.
"""

import shutil
import sys
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import jax
from jax.experimental import multihost_utils
from ml_collections import FrozenConfigDict
from tqdm import tqdm

import jaxmodels as jm
from jaxmodels.chips import slice_of
from jaxmodels.retrieval.index_files import MANIFEST, IndexFiles, join_shards
from jaxmodels.retrieval.passages import PASSAGES

from . import command, encoding
from .batch_generation import journal
from .data import published
from .encoding import Encoder, Parts, read_passages
from .progress import progress_bar
from .report import print0
from .retrieval.biencoder import resolve_checkpoint

INDEX, PARTS = "index", "parts"


def run(config: FrozenConfigDict, folder: Path) -> dict:
    """Encode every part that does not exist yet, then join the parts to the index."""
    if not config.encoder:
        raise ValueError("config.encoder is required: the folder or Hub id of a DPR context encoder, or package:NAME")
    for topology in config.topologies:
        slice_of(topology)
    first = jax.process_index() == 0
    if first and not (folder / INDEX / PASSAGES).exists():
        data = config.data
        stream = tqdm(
            read_passages(data.kind, data.path, data.passage_words), "passages", unit="passage", mininterval=2
        )
        jm.Passages.write(folder / INDEX, stream)
    multihost_utils.sync_global_devices("passages")
    texts = jm.Passages.load(folder / INDEX)
    if not len(texts):
        raise ValueError(f"data.path={config.data.path!r} has no passages")
    if (folder / INDEX / MANIFEST).exists():
        print0("this job is complete; pass --fresh to encode again")
        if first:
            shutil.rmtree(folder / PARTS, ignore_errors=True)  # may remain if the job was killed
        return {"passages": len(texts), "encoded": 0}
    encoder = Encoder(FrozenConfigDict({**config, "encoder": str(resolve_checkpoint(config.encoder))}))
    if first:
        sources = {"the encoder": encoder.context_fingerprint, "the question encoder": encoder.fingerprint}
        journal.check_unchanged(folder, sources)
        journal.record_sources(folder, sources)
    for count in sorted({len(texts), encoding.WIKIPEDIA}):
        print0(encoding.memory_table(count, encoder.width, config.topologies))
    sizes = [min(config.part_rows, len(texts) - start) for start in range(0, len(texts), config.part_rows)]
    with Parts(folder / PARTS, sizes, jax.process_index()) as parts:
        missing = parts.missing()
        multihost_utils.sync_global_devices("missing parts")
        print0(f"{len(texts):,} passages in {len(sizes):,} parts, {len(sizes) - len(missing):,} of which are done")
        result = _encode(encoder, texts, parts, sizes, missing[jax.process_index() :: jax.process_count()])
        multihost_utils.sync_global_devices("all parts")
        if first:
            paths = [parts.path(number) for number in range(len(sizes))]
            join_shards(folder / INDEX, paths, encoder.fingerprint, texts.digest)
            IndexFiles(folder / INDEX)  # checks every shard against the manifest
            shutil.rmtree(folder / PARTS)
    return {"passages": len(texts), "width": encoder.width, **result}


def show(result: dict, _config: FrozenConfigDict, folder: Path) -> None:
    if result["encoded"]:
        speed, needed = result["speed"], encoding.format_duration(encoding.WIKIPEDIA / result["speed"])
        print0(
            f"\n{result['encoded']:,} passages in {encoding.format_duration(result['seconds'])}, including compilation"
        )
        print0(f"{speed:,.1f} passages/s per process; {encoding.WIKIPEDIA:,} would take it {needed}")
    print0(f"{result['passages']:,} passages with vectors: {folder / INDEX}")


def _encode(encoder: Encoder, texts: jm.Passages, parts: Parts, sizes: list[int], assigned: list[int]) -> dict:
    """Encode and write the parts `assigned`, one after the other."""
    starts = [number * sizes[0] for number in assigned]
    start_time = time.perf_counter()
    times: list[float] = []
    bar = progress_bar(sum(sizes[number] for number in assigned), "passage", disable=jax.process_index() != 0)

    def tokenize(position: int) -> encoding.Tokens:
        start = starts[position]
        return encoder.tokenize([texts[i] for i in range(start, start + sizes[assigned[position]])])

    # The next part is tokenized while this one is encoded.
    with bar, ThreadPoolExecutor(1) as executor:
        futures = deque([executor.submit(tokenize, 0)] if assigned else [])
        for position, number in enumerate(assigned):
            tokens, since = futures.popleft().result(), time.perf_counter()
            if position + 1 < len(assigned):
                futures.append(executor.submit(tokenize, position + 1))
            parts.add(number, encoder.encode(tokens, bar.update))
            times.append(time.perf_counter() - since)
            bar.set_postfix_str(f"{len(assigned) - position - 1} parts left", refresh=False)
    # The first part includes compilation, so it is left out if there are others.
    steady = slice(1 if len(assigned) > 1 else 0, None)
    speed = sum(sizes[number] for number in assigned[steady]) / sum(times[steady]) if assigned else 0.0
    encoded = sum(sizes[number] for number in assigned)
    return {"encoded": encoded, "seconds": time.perf_counter() - start_time, "speed": speed}


main = partial(command.launch, run, show, "encode_squad", published.data_by_kind)

if __name__ == "__main__":
    main(sys.argv[1:])
