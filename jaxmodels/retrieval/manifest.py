"""Former module: use `jaxmodels.retrieval.index_files`."""

from jaxmodels.retrieval.index_files import MANIFEST

__all__ = ["MANIFEST"]
