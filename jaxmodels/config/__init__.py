"""What a checkpoint is: the facts of its `config.json`, as a frozen, hashable value."""

from jaxmodels.config.base import Config
from jaxmodels.config.fields import thaw
from jaxmodels.config.files import GENERATION_KEYS, TEXT_IDS

__all__ = ["GENERATION_KEYS", "TEXT_IDS", "Config", "thaw"]
