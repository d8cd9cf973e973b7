"""Former module: use `jaxmodels.retrieval.rows`."""

from jaxmodels.retrieval.rows import validate_embeddings as checked_rows

__all__ = ["checked_rows"]
