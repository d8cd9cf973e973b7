"""Former module: use `jaxmodels.retrieval.importers`."""

from jaxmodels.retrieval.importers import SavedDataset, read_passages_tsv

__all__ = ["SavedDataset", "read_passages_tsv"]
