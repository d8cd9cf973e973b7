"""Checkpoints: a folder or a Hub id -> model and parameters, and back."""

from jaxmodels.hub.load import load
from jaxmodels.hub.save import save

__all__ = ["load", "save"]
