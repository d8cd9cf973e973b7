"""Jinja for chat templates that strangers wrote: they reach nothing but what they are given, and only do so much.

Jinja's own sandbox sees to the first. For the second every step of a template is metered (see `metering`): the calls of
the environment are, and for the rest there are filters in the tree of the template, which it cannot name itself.
"""

import functools
from collections.abc import Callable, Mapping

from jinja2 import TemplateError, filters, nodes, tests
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace, pass_context
from jinja2.visitor import NodeTransformer

from jaxmodels.tokenization import metering
from jaxmodels.tokenization.metering import METER, LimitError, Meter
from jaxmodels.wording import cut

# Published ones have up to 20,000 characters. Python takes a second to compile as many as these at worst.
LONGEST_TEMPLATE = 64_000
# Slow where a text is long, and of no use to a prompt.
WITHOUT_FILTERS = {"filesizeformat", "pprint", "striptags", "urlize", "wordwrap", "xmlattr"}
WITHOUT_METHODS = {"encode", "expandtabs", "maketrans", "striptags", "translate", "unescape"}
CONTAINER_METHODS = {"copy", "count", "get", "index", "items", "keys", "values"}
SEARCHES = {"lstrip", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "strip"}
# Those that look into what they are given: they spell it, sort it or compare it.
WHOLE_FILTERS = {"dictsort", "e", "escape", "forceescape", "format", "groupby", "join", "max", "min", "sort", "string"}
WHOLE_FILTERS |= {"tojson", "unique", "urlencode"}
# Those that go through a text by Python and not by C.
SLOW_FILTERS = {"list", "max", "min", "sort", "title", "unique", "wordcount"}
WHOLE_TESTS = {"!=", "<", "<=", "==", ">", ">=", "eq", "equalto", "ge", "greaterthan", "gt", "in", "le", "lessthan"}
WHOLE_TESTS |= {"lt", "ne"}


class ChatTemplateError(TemplateError, ValueError):
    """A chat template that is no Jinja, that fails, refuses the conversation, or takes more than it may."""


def render(template: str, given: Mapping[str, object]) -> str:
    """The text that a template makes of what it is given by name.

    Raises:
      ChatTemplateError: see there; the message is short whatever the template says.
    """
    try:
        program = _compiled(template)
        meter = Meter(given)
        pieces, length = [], 0
        for piece in _metered(meter, program.generate, given):
            pieces.append(piece)
            length += len(piece)
            if length > meter.longest:
                raise LimitError(f"it writes more than {meter.longest} characters")
        return "".join(pieces)
    except Exception as error:
        raise ChatTemplateError(_complaint(error)) from None


def _complaint(error: Exception) -> str:
    said = cut(str(error), 250)
    if isinstance(error, LimitError):
        return f"the chat template is stopped: {said}; it came with the tokenizer's files: pass chat_template= instead"
    if type(error) is TemplateError:  # what templates raise themselves
        return f"the chat template refuses this conversation: {said}"
    line = f", line {error.lineno}" if isinstance(getattr(error, "lineno", None), int) else ""
    said = cut(str(error.message), 250) if isinstance(error, TemplateError) and error.message else said
    return f"the chat template fails{line}: {type(error).__name__}: {said or 'nothing further'}"


def _metered(meter: Meter, generate: Callable, given: Mapping):
    """Each piece under its own meter, for a generator has no context of its own."""
    pieces = generate(given)
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
def _compiled(template: str):
    if len(template) > LONGEST_TEMPLATE:
        raise LimitError(f"it has {len(template)} characters, at most {LONGEST_TEMPLATE} are read")
    environment = _Environment()
    token = METER.set(Meter(template))
    try:
        tree = _Metering().visit(environment.parse(template))
        return environment.from_string(tree.set_environment(environment))
    finally:
        METER.reset(token)


class _Namespace(Namespace):
    """Without the repr of its values, which may be namespaces again."""

    def __repr__(self) -> str:
        return "<Namespace>"


def _raise_exception(message: str):
    raise TemplateError(cut(str(message), 250))


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self):
        # the settings are those that published templates rely on
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        del self.globals["lipsum"]
        self.globals |= {"namespace": _Namespace, "raise_exception": _raise_exception}
        known = {**filters.FILTERS, "tojson": metering.json_text}
        self.filters = {name: self._filter(name, function) for name, function in known.items()}
        self.filters |= {".made": _made, ".shown": _shown, ".walked": _walked, ".step": _step}
        self.tests = {name: self._test(name, function) for name, function in tests.TESTS.items()}

    def _filter(self, name: str, function: Callable) -> Callable:
        wants = _wanted(function)

        @pass_context  # and so never run by the compiler
        def metered(context, value, *args, **kwargs):
            meter = METER.get()
            if name in WITHOUT_FILTERS:
                raise LimitError(f"the filter {name} is not offered to chat templates")
            if name in WHOLE_FILTERS:
                value = metering.listed(value)
            _look(meter, (value, *args, *kwargs.values()), whole=name in WHOLE_FILTERS)
            _grows(meter, name, value, args, kwargs)
            first = {"context": [context], "eval_context": [context.eval_ctx], "environment": [self]}.get(wants, [])
            return meter.made(function(*first, value, *args, **kwargs))

        return metered

    def _test(self, name: str, function: Callable) -> Callable:
        first = [self] if _wanted(function) == "environment" else []

        def metered(*args):
            _look(METER.get(), args, whole=name in WHOLE_TESTS)
            return function(*first, *args)

        return metered

    def call_binop(self, context, operator, left, right):
        meter = METER.get()
        metering.before_operator(meter, operator, left, right)
        return meter.made(super().call_binop(context, operator, left, right))

    def getitem(self, obj, argument):
        METER.get().measure(argument)
        return super().getitem(obj, argument)

    def getattr(self, obj, attribute):
        METER.get().spend(1)
        return super().getattr(obj, attribute)

    # the names with underscores keep out of the way of the template's keyword arguments
    def call(__self, __context, __obj, *args, **kwargs):
        meter = METER.get()
        meter.spend(2)
        _look(meter, (*args, *kwargs.values()), whole=False)
        if method := _method_of_builtin(__obj):
            args = _check_method(meter, *method, args, kwargs)
        call = super().call
        return meter.made(meter.nest(lambda: call(__context, __obj, *args, **kwargs)))


def _wanted(function: Callable) -> str:
    """What Jinja passes to a function before the template's own arguments."""
    return getattr(getattr(function, "jinja_pass_arg", None), "name", "")


def _look(meter: Meter, values: tuple, whole: bool) -> None:
    for value in values:
        if whole:
            meter.measure(value, text=True)
        else:
            meter.touch(value)


def _grows(meter: Meter, name: str, value, args: tuple, kwargs: dict) -> None:
    """Before a filter whose value may be much larger than what it is given."""
    for number in (*args, *kwargs.values()):
        meter.number(number)
    if name in SLOW_FILTERS and isinstance(value, str):
        meter.spend(len(value) // 4)
    named = dict(zip(_PARAMETERS.get(name, ()), args, strict=False)) | kwargs
    if name == "format":
        metering.before_format(meter, str(value), *args, *kwargs.values())
    elif name == "join":
        metering.before_join(meter, list(value), named.get("d", ""))
    elif name == "replace":
        metering.before_replace(meter, str(value), named.get("old", ""), named.get("new", ""))
    elif name == "trim":
        metering.before_search(meter, str(value), named.get("chars"))
    elif name == "indent":
        width = named.get("width", 4)
        lines = str(value).count("\n") + 1
        meter.spend(lines * (len(width) if isinstance(width, str) else int(width)) // metering.CHARACTERS)
    elif name == "sum" and not isinstance(named.get("start", 0), int | float):
        raise LimitError("it sums up what is no number")


_PARAMETERS = {
    "join": ("d", "attribute"),
    "replace": ("old", "new", "count"),
    "trim": ("chars",),
    "indent": ("width", "first", "blank"),
    "sum": ("attribute", "start"),
}


def _method_of_builtin(function: object) -> tuple[object, str] | None:
    """The owner and the name of a method of a text, a number or a container; None for other functions."""
    method = function if isinstance(function, type) else getattr(function, "__wrapped__", function)
    owner = getattr(method, "__self__", None)
    kinds = (str, bytes, int, float, complex, type, *metering.BUILTIN_CONTAINERS)
    return (owner, getattr(method, "__name__", "")) if isinstance(owner, kinds) else None


def _check_method(meter: Meter, owner, name: str, args: tuple, kwargs: dict) -> tuple:
    """Pays for a method before it is called; -> its arguments."""
    for number in (*args, *kwargs.values()):
        meter.number(number)
    if isinstance(owner, str) and name not in WITHOUT_METHODS:
        meter.touch(owner)
        if name in ("format", "format_map"):
            metering.before_format(meter, owner, *args, *kwargs.values())
        elif name == "join" and args:
            args = (metering.listed(args[0]), *args[1:])
            metering.before_join(meter, list(args[0]), owner)
        elif name == "replace" and len(args) > 1:
            metering.before_replace(meter, owner, *args[:2])
        elif name in SEARCHES:
            metering.before_search(meter, owner, *args, *kwargs.values())
    elif isinstance(owner, metering.BUILTIN_CONTAINERS) and name in CONTAINER_METHODS:
        meter.measure(args, text=True)
        if name in ("count", "index"):
            meter.measure(owner, text=True)
    else:
        raise LimitError(f"the method {name} of a {type(owner).__name__} is not offered to chat templates")
    return args


class _Metering(NodeTransformer):
    """Puts a meter into a template's tree wherever Jinja's sandbox is not asked."""

    def visit_For(self, node):
        self._body(node)
        node.iter = _around(node.iter, ".walked")
        return node

    def visit_Output(self, node):
        self.generic_visit(node)
        node.nodes = [each if isinstance(each, nodes.TemplateData) else _around(each, ".shown") for each in node.nodes]
        return node

    def visit_Concat(self, node):
        self.generic_visit(node)
        node.nodes = [_around(each, ".shown") for each in node.nodes]
        return node

    def visit_Compare(self, node):
        self.generic_visit(node)
        node.expr = _around(node.expr, ".shown")
        for operand in node.ops:
            operand.expr = _around(operand.expr, ".shown")
        return node

    def visit_List(self, node):
        return _around(self.generic_visit(node), ".made")

    visit_Dict = visit_List

    def visit_Tuple(self, node):
        self.generic_visit(node)
        return _around(node, ".made") if node.ctx == "load" else node

    def visit_Getitem(self, node):
        self.generic_visit(node)
        return _around(node, ".made") if isinstance(node.arg, nodes.Slice) else node

    def _body(self, node):
        weight = sum(len(text.data) for text in node.find_all(nodes.TemplateData)) // metering.CHARACTERS
        weight += sum(1 for _ in node.find_all(nodes.Node)) // 8
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_around(nodes.Const(1 + weight), ".step"), lineno=node.lineno))
        return node

    visit_Block = visit_CallBlock = visit_Macro = _body


def _around(node, name: str):
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


@pass_context
def _made(context, value):
    return METER.get().made(value)


@pass_context
def _shown(context, value):
    METER.get().measure(value, text=True)
    return value


@pass_context
def _walked(context, value):
    METER.get().touch(value)
    return value


@pass_context
def _step(context, weight):
    METER.get().spend(weight)
