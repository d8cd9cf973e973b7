"""Former module: use `jaxmodels.retrieval.rows`."""

from jaxmodels.retrieval.rows import make_layout

__all__ = ["make_layout"]
