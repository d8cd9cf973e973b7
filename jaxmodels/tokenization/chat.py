"""Chat templates: rendering a conversation with a Jinja template from a tokenizer's files.

Templates are untrusted. Jinja's sandbox restricts what they can access, and every step of a template is metered (see
`chat_limits`): the environment meters calls, and filters inserted into the template's syntax tree meter the rest.
"""

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from jinja2 import Template, TemplateError, filters, nodes, tests
from jinja2.ext import loopcontrols
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace, pass_context
from jinja2.visitor import NodeTransformer

from jaxmodels.messages import brief, truncate
from jaxmodels.tokenization import chat_limits
from jaxmodels.tokenization.chat_limits import METER, LimitError, Meter

# Published templates have up to 20,000 characters. Python takes at most about a second to compile this many.
MAX_TEMPLATE = 64_000


class ChatTemplateError(TemplateError, ValueError):
    """A chat template is invalid, fails, refuses the conversation, or exceeds its limits."""


def select_template(available: str | Mapping[str, str] | None, requested: str | None) -> str:
    """Select the template to render.

    Args:
      available: the tokenizer's template, or several by name.
      requested: the caller's template or the name of one; None for the tokenizer's.
    """
    if isinstance(available, Mapping):
        if requested in available or requested is None and "default" in available:
            return available[requested or "default"]
        if requested is None:
            raise ValueError(
                f"the tokenizer has the chat templates {brief(list(available))}: pass one of these as chat_template"
            )
    template = available if requested is None else requested
    if template is None:
        raise ValueError("the tokenizer has no chat template: set tok.chat_template, or pass chat_template")
    return template  # type: ignore[return-value]  # a mapping only if `requested` is not in it


def is_batch(conversation: Any) -> bool:
    """Whether the argument holds several conversations.

    Raises:
      ValueError: it is not a conversation.
    """
    several = isinstance(conversation, (list, tuple)) and len(conversation) > 0
    several = several and not isinstance(conversation[0], Mapping)
    for messages in conversation if several else [conversation]:
        if not isinstance(messages, (list, tuple)) or not all(isinstance(each, Mapping) for each in messages):
            raise ValueError(
                'a conversation must be a list of {"role": ..., "content": ...}, or a list of such lists, '
                f"got {brief(conversation)}"
            )
    return several


def template_variables(template: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of `options` whose names occur in the template."""
    names = set(re.findall(r"\w+", template)) if options and isinstance(template, str) else set()
    return {name: value for name, value in options.items() if name in names}


def truncate_after_final_message(last: Sequence[Mapping[str, Any]], text: str) -> str:
    """Return the text up to the end of the last message's content, which a template may have stripped."""
    content = last[0].get("content") if last else None
    for rendered in (content, content.strip()) if isinstance(content, str) and content.strip() else ():
        if rendered in text:
            return text[: text.rindex(rendered) + len(rendered)]
    raise ValueError("continue_final_message needs a final message whose content the template renders unchanged")


def render_batch(
    template: str, conversation: Sequence[Any], variables: Mapping[str, Any], continue_final_message: bool
) -> str | list[str]:
    """Render a conversation, or each of a list of conversations; see `render`."""
    batched = is_batch(conversation)
    texts = []
    for messages in conversation if batched else [conversation]:
        text = render(template, messages, variables)
        texts.append(truncate_after_final_message(messages[-1:], text) if continue_final_message else text)
    return texts if batched else texts[0]


def render(template: str, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> str:
    """Render one conversation.

    Args:
      template: the Jinja template.
      messages: [{"role": ..., "content": ...}, ...].
      variables: further variables, such as add_generation_prompt and the special tokens.

    Raises:
      ChatTemplateError: the template is invalid, fails, refuses the conversation, or exceeds the steps, text or nesting
        allowed for a conversation of this size. The message is short whatever the template contains.
    """
    if not isinstance(template, str):
        raise ValueError(f"a chat template must be a Jinja template as a str, got {brief(template)}")
    inputs = {"messages": messages, **variables}
    try:
        program = _compile(template)
        meter = Meter(inputs)
        pieces, length = [], 0
        for piece in _metered_pieces(meter, program.generate, inputs):
            pieces.append(piece)
            length += len(piece)
            if length > meter.max_text:
                raise LimitError(f"it writes more than {meter.max_text} characters")
        return "".join(pieces)
    except Exception as error:
        raise ChatTemplateError(_describe(error)) from None


def _describe(error: Exception) -> str:
    message = truncate(str(error), 250)
    if isinstance(error, LimitError):
        return (
            f"the chat template is stopped: {message}; if it came with the tokenizer's files, pass another one as "
            "chat_template"
        )
    if type(error) is TemplateError:  # raised by the template itself
        return f"the chat template refuses this conversation: {message}"
    line = f", line {error.lineno}" if isinstance(getattr(error, "lineno", None), int) else ""  # type: ignore[attr-defined]
    message = truncate(str(error.message), 250) if isinstance(error, TemplateError) and error.message else message
    return f"the chat template fails{line}: {type(error).__name__}: {message or 'no details'}"


def _metered_pieces(
    meter: Meter, generate: Callable[[Mapping[str, Any]], Iterator[str]], inputs: Mapping[str, Any]
) -> Iterator[str]:
    """Generate each piece with the meter set, since a generator does not keep its context variables."""
    pieces = generate(inputs)
    while True:
        token = METER.set(meter)
        try:
            piece = next(pieces, None)
        finally:
            METER.reset(token)
        if piece is None:
            return
        yield piece


@functools.lru_cache
def _compile(template: str) -> Template:
    if len(template) > MAX_TEMPLATE:
        raise LimitError(f"it has {len(template)} characters, more than {MAX_TEMPLATE}")
    environment = _Environment()
    token = METER.set(Meter(template))
    try:
        tree = _MeterInsertion().visit(environment.parse(template))
        return environment.from_string(tree.set_environment(environment))
    finally:
        METER.reset(token)


class _Namespace(Namespace):
    """A namespace whose repr does not include its values, which may be namespaces that contain it."""

    def __repr__(self) -> str:
        return "<Namespace>"


def _raise_exception(message: str) -> None:
    raise TemplateError(truncate(str(message), 250))


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self) -> None:
        # published templates rely on these settings
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        del self.globals["lipsum"]
        self.globals |= {"namespace": _Namespace, "raise_exception": _raise_exception}
        known = {**filters.FILTERS, "tojson": chat_limits.json_text}
        self.filters = {name: self._metered_filter(name, function) for name, function in known.items()}
        # a template cannot name these, since a name cannot begin with a dot
        self.filters |= {".created": _created, ".printed": _printed, ".iterated": _iterated, ".step": _step}
        known_tests: dict[str, Any] = tests.TESTS
        self.tests = {name: self._metered_test(name, function) for name, function in known_tests.items()}

    def _metered_filter(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        passed = _passed_argument(function)

        @pass_context  # so that the compiler does not evaluate it
        def metered(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
            meter = METER.get()
            if name in chat_limits.FORBIDDEN_FILTERS:
                raise LimitError(f"the filter {name} is not available to chat templates")
            traverses = name in chat_limits.TRAVERSING_FILTERS
            if traverses:
                value = chat_limits.to_list(value)
            chat_limits.charge_arguments(meter, (value, *args, *kwargs.values()), nested=traverses)
            chat_limits.charge_filter(meter, name, value, args, kwargs)
            leading: dict[str, list[Any]] = {
                "context": [context],
                "eval_context": [context.eval_ctx],
                "environment": [self],
            }
            return meter.charge_created(function(*leading.get(passed, []), value, *args, **kwargs))

        return metered

    def _metered_test(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        leading: list[Any] = [self] if _passed_argument(function) == "environment" else []

        def metered(*args: Any) -> Any:
            chat_limits.charge_arguments(METER.get(), args, nested=name in chat_limits.TRAVERSING_TESTS)
            return function(*leading, *args)

        return metered

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        meter = METER.get()
        chat_limits.charge_operator(meter, operator, left, right)
        return meter.charge_created(super().call_binop(context, operator, left, right))

    def getitem(self, obj: Any, argument: Any) -> Any:
        METER.get().charge_nested(argument)
        return super().getitem(obj, argument)

    def getattr(self, obj: Any, attribute: str) -> Any:
        METER.get().spend(1)
        return super().getattr(obj, attribute)

    # names with underscores do not collide with keyword arguments of the template
    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        meter = METER.get()
        meter.spend(2)
        chat_limits.charge_arguments(meter, (*args, *kwargs.values()), nested=False)
        if method := chat_limits.method_of_builtin(__obj):
            args = chat_limits.charge_method(meter, *method, args, kwargs)
        call = super().call
        return meter.charge_created(meter.nest(lambda: call(__context, __obj, *args, **kwargs)))


def _passed_argument(function: Callable[..., Any]) -> str:
    """Return what Jinja passes to a function before the template's arguments."""
    return getattr(getattr(function, "jinja_pass_arg", None), "name", "")


class _MeterInsertion(NodeTransformer):
    """Inserts metering filters into a template's tree where Jinja's sandbox has no hook."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self._meter_body(node)
        node.iter = _wrap(node.iter, ".iterated")
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [each if isinstance(each, nodes.TemplateData) else _wrap(each, ".printed") for each in node.nodes]
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [_wrap(each, ".printed") for each in node.nodes]
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = _wrap(node.expr, ".printed")
        for operand in node.ops:
            operand.expr = _wrap(operand.expr, ".printed")
        return node

    def visit_List(self, node: nodes.Node) -> nodes.Node:
        return _wrap(self.generic_visit(node), ".created")

    visit_Dict = visit_List

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return _wrap(node, ".created") if node.ctx == "load" else node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _wrap(node, ".created") if isinstance(node.arg, nodes.Slice) else node

    def _meter_body(self, node: Any) -> nodes.Node:
        steps = sum(len(text.data) for text in node.find_all(nodes.TemplateData)) // chat_limits.CHARACTERS
        steps += sum(1 for _ in node.find_all(nodes.Node)) // 8
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_wrap(nodes.Const(1 + steps), ".step"), lineno=node.lineno))
        return node

    visit_Block = visit_CallBlock = visit_Macro = _meter_body


def _wrap(node: Any, filter_name: str) -> nodes.Filter:
    return nodes.Filter(node, filter_name, [], [], None, None, lineno=node.lineno)


@pass_context
def _created(context: Context, value: Any) -> Any:
    return METER.get().charge_created(value)


@pass_context
def _printed(context: Context, value: Any) -> Any:
    METER.get().charge_nested(value, read=True)
    return value


@pass_context
def _iterated(context: Context, value: Any) -> Any:
    METER.get().charge(value)
    return value


@pass_context
def _step(context: Context, steps: int) -> None:
    METER.get().spend(steps)
