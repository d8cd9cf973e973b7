"""CTranslate2, a C++ inference engine, in float32. It only decodes."""

import os
import subprocess
import sys
import tempfile

import ctranslate2

from benchmarks.peers import Job


def decode(folder: str, ids: list[list[int]], new: int, beams: int = 1) -> Job:
    prompts = [[str(i) for i in row] for row in ids]
    with tempfile.TemporaryDirectory() as converted:
        # The conversion needs torch, whose memory should not count here: so it runs in another process.
        convert = [sys.executable, "-m", "benchmarks.peers.ctranslate2_convert", folder, converted]
        subprocess.run(convert, check=True, stdout=subprocess.DEVNULL)
        threads = os.cpu_count()
        generator = ctranslate2.Generator(converted, compute_type="float32", inter_threads=1, intra_threads=threads)

    def run():
        # `end_token`: no EOS token.
        options = {"max_length": new, "beam_size": beams, "end_token": [], "include_prompt_in_result": False}
        results = generator.generate_batch(prompts, **options)
        return [row + result.sequences_ids[0] for row, result in zip(ids, results, strict=True)]

    return Job(run)
