"""Retrieval: maximum inner product search over passage embeddings, and assembly of RAG contexts."""

from jaxmodels.retrieval.array_pickle import legacy_passages
from jaxmodels.retrieval.dense_index import DenseIndex
from jaxmodels.retrieval.device import DeviceRetriever
from jaxmodels.retrieval.faiss_index import FaissIndex
from jaxmodels.retrieval.folders import check_encoders, check_passages, fingerprint, load_folder, write_folder
from jaxmodels.retrieval.importers import import_dataset, import_dpr, import_faiss, import_legacy
from jaxmodels.retrieval.passages import Passages
from jaxmodels.retrieval.retriever import RagRetriever

__all__ = [
    "DenseIndex",
    "DeviceRetriever",
    "FaissIndex",
    "Passages",
    "RagRetriever",
    "check_encoders",
    "check_passages",
    "fingerprint",
    "import_dataset",
    "import_dpr",
    "import_faiss",
    "import_legacy",
    "legacy_passages",
    "load_folder",
    "write_folder",
]
