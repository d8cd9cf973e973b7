"""Model configurations: the contents of config.json as immutable, hashable objects."""

from jaxmodels.config.base import NO_LIMIT, Config, ConfigValue
from jaxmodels.config.fields import thaw
from jaxmodels.config.files import GENERATION_KEYS, SPECIAL_TOKEN_IDS

__all__ = ["GENERATION_KEYS", "NO_LIMIT", "SPECIAL_TOKEN_IDS", "Config", "ConfigValue", "thaw"]
