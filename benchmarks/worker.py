"""`python -m benchmarks.worker`: the process of a participant.

Reads JSON lines on stdin: first {"module", "job", "arguments"}, then "run" for every timed call; ends with stdin.
Answers with JSON lines on stdout: {"ready": true}, then one {"seconds", ...} for every call; or, at the end,
{"problem": reason}.
"""

import importlib
import json
import os
import sys
import time
from collections.abc import Callable

from benchmarks import memory
from benchmarks.peers import Job


def main() -> None:
    """Answer requests on stdin until it is closed."""
    # Libraries may print to stdout, so the answers use a duplicate of it.
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def answer(message: dict) -> None:
        print(json.dumps(message), file=channel, flush=True)

    try:
        _serve(json.loads(sys.stdin.readline()), answer)
    except ImportError as error:
        answer({"problem": f"skipped: {error} (pip install '.[bench]')"})
    except Exception as error:
        summary = str(error).strip().split("\n", 1)[0]
        answer({"problem": f"failed: {type(error).__name__}: {summary}"})
        raise


def _serve(request: dict, answer: Callable[[dict], None]) -> None:
    job = getattr(importlib.import_module(request["module"]), request["job"])(**request["arguments"])
    answer({"ready": True})
    peak = memory.peak()
    for _ in sys.stdin:
        reply = timed(job)
        # The peak is reset before every call, to measure this call; the peak of the process is the highest so far.
        peak = reply["peak_mib"] = None if peak is None else max(peak, reply["peak_mib"])
        answer(reply)


def timed(job: Job) -> dict:
    """Make a call; return its time, memory and results."""
    memory.reset_peak()
    before = memory.resident()
    start = time.perf_counter()
    result = job.run()
    seconds = time.perf_counter() - start
    peak = memory.peak()
    rise = None if peak is None or before is None else peak - before
    measured = {"seconds": seconds, "peak_mib": peak, "rise_mib": rise}
    return {**measured, "values": job.values(result), "facts": job.facts(result)}


if __name__ == "__main__":
    main()
