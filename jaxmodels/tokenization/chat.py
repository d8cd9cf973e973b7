"""Chat templates: a conversation as one text, by a Jinja program that comes with the tokenizer's files."""

from collections.abc import Mapping

from jaxmodels.wording import brief


def choose(own: str | Mapping[str, str] | None, asked: str | None) -> str:
    """The template to use: of the tokenizer's `own` (one, or several by name), or `asked` for (one, or a name)."""
    if isinstance(own, Mapping):
        if asked in own or asked is None and "default" in own:
            return own[asked or "default"]
        if asked is None:
            raise ValueError(
                f"the tokenizer has the chat templates {brief(list(own))}: pass one of these as chat_template"
            )
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
    """One conversation [{"role": ..., "content": ...}, ...] as text.

    Raises:
      ImportError: jinja2 is not installed.
      ValueError: a template that fails, refuses the conversation (it is a jinja2.TemplateError, too), or takes more
        steps, text or nesting than a conversation of this size can need. No template takes longer than seconds.
    """
    if not isinstance(template, str):
        raise ValueError(f"a chat template is a Jinja text, got {brief(template)}")
    try:
        from jaxmodels.tokenization import sandbox
    except ImportError as error:
        raise ImportError(
            "chat templates are Jinja programs and jinja2 is not installed: pip install jinja2"
        ) from error
    given = {"messages": messages, "add_generation_prompt": add_generation_prompt, **special_tokens}
    return sandbox.render(template, given)
