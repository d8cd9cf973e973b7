"""RAG cases: generating answers from retrieved documents."""

from pathlib import Path

import numpy as np

from benchmarks.case import Case, CaseMaker, peers, random_ids, writer
from benchmarks.scales import Scale

BEAMS, DOCUMENTS = 4, 5
# With 0.05, the output of a random model does not depend on its input. Without an EOS token, all lengths are equal.
CONFIG = {"init_std": 0.1, "eos_token_id": None}


def answers(name: str, cls: str, how: str, goal: float, scale: Scale, folder: Path) -> Case:
    questions, new = len(scale.contexts) // DOCUMENTS, scale.answer
    scores = np.random.default_rng(0).standard_normal((questions, DOCUMENTS), np.float32)
    return Case(
        name,
        f"RAG: {new} tokens with {BEAMS} beams for {questions} questions with {DOCUMENTS} documents each, {how}; up to "
        f"{max(scale.contexts)} tokens of documents and questions, padded to {scale.combined}",
        peers(
            ["ours", "hf-torch-sdpa"],
            "documents_answer",
            folder / "rag",
            cls=cls,
            ids=_contexts(scale),
            doc_scores=scores.tolist(),
            new=new,
            beams=BEAMS,
        ),
        rounds=3,
        weights=writer("RagTokenForGeneration", _config(scale), folder / "rag"),
        token_width=new + 1,
        goals={"hf-torch-sdpa": goal},
    )


def token(scale: Scale, folder: Path) -> Case:
    return answers("rag_token", "RagTokenForGeneration", "each token from all of them", 3.0, scale, folder)


def sequence(scale: Scale, folder: Path) -> Case:
    how = "a search in each of them, whose answers are scored with all documents"
    return answers("rag_sequence", "RagSequenceForGeneration", how, 5.0, scale, folder)


CASES: dict[str, CaseMaker] = {"rag_token": token, "rag_sequence": sequence}


def _contexts(scale: Scale) -> list[list[int]]:
    """Return contexts [B*5,S] padded with 1, as from a retriever."""
    ids = np.array(random_ids(scale.bart, len(scale.contexts), scale.combined))
    return np.where(np.arange(scale.combined) < np.array(scale.contexts)[:, None], ids, 1).tolist()


def _config(scale: Scale) -> dict:
    return {
        "question_encoder": {"model_type": "dpr", **scale.encoder},
        "generator": {"model_type": "bart", **scale.bart, **CONFIG},
        "n_docs": DOCUMENTS,
        "max_combined_length": scale.combined,
    }
