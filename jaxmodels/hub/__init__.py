"""Loading and saving of checkpoints, from and to local folders and the Hub."""

from jaxmodels.hub.checkpoint import load_config
from jaxmodels.hub.load import load, load_rag
from jaxmodels.hub.save import save

__all__ = ["load", "load_config", "load_rag", "save"]
