"""Conversations as callers give them, and what a call gives to a chat template beside them."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jaxmodels.wording import brief


def is_batch(conversation) -> bool:
    """Whether these are several conversations; ValueError for what is none."""
    several = isinstance(conversation, (list, tuple)) and len(conversation) > 0
    several = several and not isinstance(conversation[0], Mapping)
    for messages in conversation if several else [conversation]:
        if not isinstance(messages, (list, tuple)) or not all(isinstance(each, Mapping) for each in messages):
            raise ValueError(
                'a conversation must be a list of {"role": ..., "content": ...}, or a list of such lists, '
                f"got {brief(conversation)}"
            )
    return several


def variables(template: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `options` that the template speaks of."""
    words = set(re.findall(r"\w+", template)) if options and isinstance(template, str) else ()
    return {name: value for name, value in options.items() if name in words}


def ending_in(last: Sequence[Mapping], text: str) -> str:
    """The text up to the end of the last message's content, whose white space a template may strip."""
    content = last[0].get("content") if last else None
    for written in (content, content.strip()) if isinstance(content, str) and content.strip() else ():
        if written in text:
            return text[: text.rindex(written) + len(written)]
    raise ValueError("continue_final_message needs a last message whose content the template writes as it is")
