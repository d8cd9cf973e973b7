"""The parts of lm-eval 0.4.13 that `jaxmodels.lm_eval` uses, so that its tests need not install 45 packages."""

from dataclasses import dataclass
from types import ModuleType
from typing import Any

REGISTERED: dict[str, type] = {}


@dataclass
class Instance:
    args: tuple[Any, ...]


class CacheHook:
    def __init__(self):
        self.added: list[tuple[str, Any, Any]] = []

    def add_partial(self, kind: str, request: Any, answer: Any) -> None:
        self.added.append((kind, request, answer))


class TemplateLM:
    """As lm-eval's class of that name: a trailing space of the context belongs to the continuation."""

    def __init__(self):
        self.cache_hook = CacheHook()

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        encoded = []
        for context, continuation in (request.args for request in requests):
            if context == "":
                pair = [self.prefix_token_id], self.tok_encode(continuation, add_special_tokens=False)
            else:
                spaces = len(context) - len(context.rstrip())
                whole = self.tok_encode(context + continuation)
                before = self.tok_encode(context[: len(context) - spaces])
                pair = before, whole[len(before) :]
            encoded.append(((context, continuation), *pair))
        return self._loglikelihood_tokens(encoded, disable_tqdm=disable_tqdm)


def register_model(name: str):
    def register(cls: type) -> type:
        REGISTERED[name] = cls
        return cls

    return register


def modules() -> dict[str, ModuleType]:
    """The modules by name, for sys.modules."""
    found = {name: ModuleType(name) for name in ("lm_eval", "lm_eval.models", "lm_eval.api")}
    found |= {f"lm_eval.api.{name}": ModuleType(f"lm_eval.api.{name}") for name in ("model", "registry")}
    found["lm_eval.api.model"].TemplateLM = TemplateLM
    found["lm_eval.api.registry"].register_model = register_model
    return found
