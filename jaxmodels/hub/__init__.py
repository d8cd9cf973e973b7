"""Loading and saving of checkpoints, from and to local folders and the Hub."""

from jaxmodels.hub.adapters import load_adapter, merge_adapter, save_adapter
from jaxmodels.hub.checkpoint import load_config
from jaxmodels.hub.load import load, load_rag
from jaxmodels.hub.save import save

__all__ = ["load", "load_adapter", "load_config", "load_rag", "merge_adapter", "save", "save_adapter"]
