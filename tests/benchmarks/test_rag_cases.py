"""The definitions of the cases at both scales, without running them."""

import importlib
import inspect
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.cases import CASES
from benchmarks.rag_cases import DOCUMENTS
from benchmarks.scales import BASE, TINY

SCALES = {"base": BASE, "tiny": TINY}


@pytest.mark.parametrize("name", CASES)
def test_case_arguments_are_json_serialisable(name, tmp_path):
    for scale in SCALES.values():
        case = CASES[name](scale, tmp_path)
        assert case.name == name, "its records would be another case's"
        labels = [participant.label for participant in case.participants]
        assert len(set(labels)) == len(labels) and set(case.goals) <= set(labels)
        for participant in (*case.participants, *filter(None, [case.machine, case.weights])):
            json.dumps(participant.arguments)
            # A peer's library need not be here: only our own jobs' arguments are compared with what they take.
            if participant.peer == "ours":
                job = getattr(importlib.import_module(participant.module), participant.job)
                inspect.signature(job).bind(**participant.arguments)


@pytest.mark.parametrize("scale", SCALES)
def test_contexts_of_rag_are_padded_like_a_retriever_does(scale):
    scale = SCALES[scale]
    case = CASES["rag_token"](scale, Path("nowhere"))
    both = [participant.arguments for participant in case.participants]
    ids, scores = np.array(both[0]["ids"]), np.array(both[0]["doc_scores"])
    assert both[0] == both[1] and ids.shape == (scores.size, scale.combined) and scores.shape[1] == DOCUMENTS
    assert ((ids != 1).sum(axis=1) == scale.contexts).all() and max(scale.contexts) <= scale.combined
    assert (np.diff(ids != 1, axis=1).sum(axis=1) <= 1).all(), "padding is on the right"
    assert CASES["rag_sequence"](scale, Path("nowhere")).weights == case.weights, "written once for both"


def test_merge_case_compares_the_same_search():
    with_it, without, alone = CASES["mips_merge"](TINY, Path("nowhere")).participants
    assert {**with_it.arguments, "merged": False} == without.arguments and with_it.environment == without.environment
    assert {**alone.arguments, "merged": False} == without.arguments and not alone.environment
