"""faiss's exact index."""

import faiss

from benchmarks.peers import Job, as_values, random_queries, random_rows


def search(folder: str, rows: int, width: int, queries: int, k: int) -> Job:
    index = faiss.IndexFlatIP(width)
    for batch in random_rows(rows, width):
        index.add(batch)
    questions = random_queries(queries, width)
    return Job(lambda: index.search(questions, k), values=lambda found: as_values(found[0]))
