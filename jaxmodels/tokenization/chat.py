"""Chat templates: a conversation as one text, by a Jinja program that comes with the tokenizer's files."""

import functools
import json
from collections.abc import Mapping


def choose(own: str | Mapping[str, str] | None, asked: str | None) -> str:
    """The template to use: of the tokenizer's `own` (one, or several by name), or `asked` for (one, or a name)."""
    if isinstance(own, Mapping):
        if asked in own or asked is None and "default" in own:
            return own[asked or "default"]
        if asked is None:
            raise ValueError(f"the tokenizer has the chat templates {list(own)}: pass one of these as chat_template")
    template = own if asked is None else asked
    if template is None:
        raise ValueError("the tokenizer has no chat template: set tok.chat_template, or pass chat_template")
    return template


def render(
    template: str,
    messages: list[Mapping],
    add_generation_prompt: bool,
    special_tokens: Mapping,
) -> str:
    """One conversation [{"role": ..., "content": ...}, ...] as text."""
    program = _compiled(template)
    return program.render(messages=messages, add_generation_prompt=add_generation_prompt, **special_tokens)


@functools.lru_cache
def _compiled(template: str):
    try:
        import jinja2
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise ImportError(
            "chat templates are Jinja programs and jinja2 is not installed: pip install jinja2"
        ) from error

    def raise_exception(message: str):
        raise jinja2.TemplateError(message)

    def tojson(value, indent: int | None = None):
        # Jinja's own filter escapes HTML, which would put \u0027 into prompts
        return json.dumps(value, ensure_ascii=False, indent=indent)

    # Sandboxed, since templates come with downloaded files; the settings are those that published templates rely on.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    return environment.from_string(template)
