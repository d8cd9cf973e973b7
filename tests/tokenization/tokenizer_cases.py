"""Run the tokenizer cases of ../shared/cases: load a case's tokenizer, make its calls, compare with its outputs.

A case's `calls` name a method, its positional and keyword arguments; the outputs are `<call>`, `<call>.<key>` or
`<call>.<key>.<row>`. A case of the kind decode_best_spans is one call, on the arrays of its inputs.npz; the outputs are
the answers' fields. Any family's test can use this: a class that `TOKENIZERS` has is run, the others wait for theirs.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxmodels.tokenization.loading import TOKENIZERS, load_tokenizer

CASES = Path(__file__).resolve().parents[3] / "shared" / "cases"


def tokenizer_case_names() -> list[str]:
    """The tokenizer cases whose class is here; known at collection, so each is a test of its own."""
    cases = [json.loads(path.read_text()) for path in sorted(CASES.glob("*/case.json"))]
    return [case["name"] for case in cases if case["class"] in TOKENIZERS]


def run_case(folder: Path, case: dict) -> dict[str, np.ndarray]:
    """{output name: array} of every call of a case."""
    tokenizer = load_tokenizer(folder / "tokenizer", cls=TOKENIZERS[case["class"]], **case.get("init", {}))
    return RUNNERS[case["kind"]](tokenizer, folder, case)


def _calls(tokenizer, folder: Path, case: dict) -> dict[str, np.ndarray]:
    outputs = {}
    for i, call in enumerate(case["calls"]):
        result = getattr(tokenizer, call["method"])(*call["args"], **call["kwargs"])
        outputs |= flatten(f"{i}", result)
    return outputs


def _best_spans(tokenizer, folder: Path, case: dict) -> dict[str, np.ndarray]:
    with np.load(folder / "inputs.npz") as inputs:
        logits = [inputs[name] for name in ("start_logits", "end_logits", "relevance_logits")]
        spans = tokenizer.decode_best_spans({"input_ids": inputs["input_ids"]}, logits, **case["call"])
    return {name: np.asarray([getattr(span, name) for span in spans]) for name in spans[0]._fields}


RUNNERS = {"tokenizer": _calls, "decode_best_spans": _best_spans}


def flatten(name: str, value) -> dict[str, np.ndarray]:
    """A result under every name that a case may give it: whole where it is rectangular, and row by row."""
    if isinstance(value, Mapping):
        return {full: array for key in value for full, array in flatten(f"{name}.{key}", value[key]).items()}
    rows = {f"{name}.{i}": np.asarray(row) for i, row in enumerate(value)} if np.ndim(value[:0]) else {}
    try:
        return rows | {name: np.asarray(value)}
    except ValueError:  # rows of different lengths
        return rows


def assert_equal_outputs(got: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]):
    for name, reference in expected.items():
        assert name in got, f"{name} is missing; there are {sorted(got)}"
        np.testing.assert_array_equal(got[name], reference, err_msg=name)
