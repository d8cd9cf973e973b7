"""NumPy."""

import numpy as np

from benchmarks.peers import Job, as_values, random_queries, random_rows


def search(folder: str, rows: int, width: int, queries: int, k: int) -> Job:
    table = np.concatenate(list(random_rows(rows, width)))
    questions = random_queries(queries, width)

    def run() -> tuple[np.ndarray, np.ndarray]:
        scores = questions @ table.T
        ids = np.argpartition(scores, rows - k, axis=1)[:, rows - k :]
        best = np.take_along_axis(scores, ids, axis=1)
        order = np.argsort(-best, axis=1)
        return np.take_along_axis(best, order, axis=1), np.take_along_axis(ids, order, axis=1)

    return Job(run, values=lambda found: as_values(found[0]))
