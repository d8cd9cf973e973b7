"""Limits of chat templates, which are untrusted; ordinary templates render as in plain Jinja (docs/parity.md, T7)."""

import json
import threading
import tracemalloc

import jinja2
import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from jaxmodels.tokenization import chat, chat_limits

CHAT = [
    {"role": "system", "content": "  be kind\nand short "},
    {"role": "user", "content": 'it\'s <b> & "x"', "tags": ["b", "a", "b"]},
    {"role": "assistant", "content": "né 🙂", "score": 2.75},
]
GROW = "{%% set ns = namespace(s=%s) %%}{%% for i in range(64) %%}{%% set ns.s = %s %%}{%% endfor %%}{{ ns.s%s }}"

ENDLESS = {
    "a range": "{% for i in range(10**9) %}x{% endfor %}",
    "nested ranges": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "nested lists": "{% set l = range(999)|list %}"
    "{% for a in l %}{% for b in l %}{% for c in l %}{% endfor %}{% endfor %}{% endfor %}",
    "nested lists, all left out": "{% set l = range(999)|list %}"
    "{% for a in l %}{% for b in l %}{% for c in l if false %}{% endfor %}{% endfor %}{% endfor %}",
    "a loop around a text": "{% set a %}{% for i in range(99999) %}" + "x" * 50_000 + "{% endfor %}{% endset %}",
    "calls of methods": "{% set c = cycler(1, 2) %}{% for i in range(99999) %}{% for j in range(9999) %}{{ c.next() }}"
    "{% endfor %}{% endfor %}",
    "a macro in itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "a macro twice": "{% macro f(n) %}{% if n %}{{ f(n - 1) ~ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "a call block in itself": "{% macro f() %}{{ caller() }}{% endmacro %}{% macro g() %}{% call f() %}{{ g() }}"
    "{{ g() }}{% endcall %}{% endmacro %}{{ g() }}",
    "a block in itself": "{% block a %}{{ self.a() }}{% endblock %}",
    "a loop in itself": "{% for x in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}",
    "comparisons": "{% set a = 'a' * 900000 %}{% for i in range(99999) %}{% if a == a[:] %}{% endif %}{% endfor %}",
    "searches in lists": "{% set a = range(90000)|list %}{% for i in range(90000) %}{{ -1 in a }}{% endfor %}",
    "equal lists": "{% set a = ['x' * 900] * 900 %}{% for i in range(90000) %}{{ a is eq(a[:]) }}{% endfor %}",
    "hashes": "{% set t = range(99999)|list %}{% for i in range(90000) %}{{ {}[(t,)] }}{% endfor %}",
    "paths of attributes": "{% set a = 'b.' * 99999 %}{{ (['b'] * 9999)|map(attribute=a, default='c')|list|length }}",
    "sums of lists": "{{ ([[1]] * 99999)|sum(start=[])|length }}",
    "wrapped lines": "{{ ('x' * 900000)|wordwrap(1) }}",
    "a search from the right": "{{ ('a' * 900000).rfind('b' ~ 'a' * 400000) }}",
    "stripped characters": "{{ ('a' * 900000)|trim('b' * 900000 ~ 'a') }}",
    "numbers": "{% for i in range(90000) %}{{ ('9' * 4299)|int // 7 }}{% endfor %}",
}
HUGE = {
    "a text times a number": "{{ ('x' * 10**10)|length }}",
    "a number times a text": "{{ (10**10 * 'x')|length }}",
    "a list times a number": "{{ ([1] * 10**10)|length }}",
    "a text twice": GROW % ("'x' * 999", "ns.s ~ ns.s", "|length"),
    "a text plus itself": GROW % ("'x' * 999", "ns.s + ns.s", "|length"),
    "a list plus itself": GROW % ("[1]", "ns.s + ns.s", "|length"),
    "a list of itself": GROW % ("[1]", "[ns.s, ns.s]", ""),
    "a tuple of itself": GROW % ("(1,)", "(ns.s, ns.s)", "|string|length"),
    "a dict of itself": GROW % ("{}", "{'a': ns.s, 'b': ns.s}", "|tojson"),
    "a dict of itself, called": GROW % ("{}", "dict(a=ns.s, b=ns.s)", ""),
    "a power": "{{ 2**(10**9) }}",
    "a product": GROW % ("3", "ns.s * ns.s", ""),
    "a width of %": "{{ '%999999999d' % 1 }}",
    "a width of % that is a value": "{{ '%*d' % (10**9, 1) }}",
    "a width of the filter": "{{ ['%999999999d']|map('format', 1)|list }}",
    "a width of {}": "{{ '{:999999999}'.format(1) }}",
    "a width of {} that is a value": "{{ '{a:{b}}'.format_map({'a': 1, 'b': '99999999'}) }}",
    "a width of a stored method": "{% set f = '{:999999999}'|attr('format') %}{{ f(1) }}",
    "many places": "{{ ('{0}' * 99999).format('x' * 99999)|length }}",
    **{f"the filter {name}": "{{ 'x'|" + name + " }}" for name in ("center(10**9)", "indent(10**9, true)")},
    **{
        f"the method {name}": "{{ 'x'." + name + "(10**9) }}"
        for name in ("center", "ljust", "rjust", "zfill", "expandtabs")
    },
    "a filter block": "{% filter center(10**9) %}x{% endfilter %}",
    "an indent by a text": "{{ ('\\n' * 99999)|indent('y' * 99999)|length }}",
    "rows to fill": "{{ [1]|batch(10**9, 1)|list|length }}",
    "parts": "{{ [1]|slice(10**9)|list|length }}",
    "JSON's indent": "{{ [[[1]]]|tojson(10**9) }}",
    "JSON's many indents": "{{ ([[[[1]]]] * 99999)|tojson(indent=100)|length }}",
    "replaced texts": "{{ ('x' * 99999).replace('x', 'y' * 99999)|length }}",
    "replaced texts, by a filter": "{{ ('x' * 99999)|replace(new='y' * 99999, old='x')|length }}",
    "replaced nothing": "{{ ('x' * 99999)|replace('', 'y' * 99999)|length }}",
    "joined by a text": "{{ ('x' * 99999).join(['a'] * 99999)|length }}",
    "joined texts": "{{ (['x' * 99999] * 99999)|select|join|length }}",
    "translated characters": "{{ ('x' * 99999).translate({120: 'y' * 99999})|length }}",
    "bytes": "{{ (1).to_bytes(10**9, 'big')|length }}",
    "digits": "{{ 1.5|round(10**9, 'ceil') }}",
    "many texts": GROW % ("[]", "ns.s + ['🙂' * 900000]", "|length"),
    "ipsum": "{{ lipsum(n=10**6)|length }}",
}
WRONG = {
    "no Jinja": ("{{ " + "x" * 50_000, "line 1"),
    "brackets": ("{{ " + "(" * 50_000, "RecursionError"),
    "loops in loops": ("{% for i in x %}" * 30 + "{% endfor %}" * 30, "nested blocks"),
    "much of it": ("x" * 10**6, "1000000 characters"),
    "another file": ("{% include '/etc/passwd' %}", "no loader"),
    "the classes of Python": ("{{ messages.__class__.__mro__ }}", "unsafe"),
    "a sum of a text": ("{{ 1 + 'a' }}", "TypeError"),
    "a division by 0": ("{{ 1 / 0 }}", "division by zero"),
    "a complaint": ("{{ raise_exception('no' * 400000) }}", "refuses this conversation: nono"),
    "an attribute of nothing": ("{{ nobody['x' * 900000].b }}", "nobody"),
}


@pytest.fixture
def short(monkeypatch):
    """Reduce the limit of steps to a fifth, for faster tests."""
    monkeypatch.setattr(chat_limits, "STEPS", chat_limits.STEPS // 5)


def refused(template: str, part: str) -> None:
    with pytest.raises(ValueError, match=part) as caught:
        chat.render(template, CHAT, {"eos_token": "</s>"})
    assert isinstance(caught.value, jinja2.TemplateError)
    assert len(str(caught.value)) <= 500


@pytest.mark.parametrize("name", ENDLESS)
@pytest.mark.parity("T7")
def test_endless_chat_templates_are_stopped(name, short):
    refused(ENDLESS[name], "is stopped|Range too big")


@pytest.mark.parametrize("name", HUGE)
@pytest.mark.parity("T7")
def test_chat_templates_cannot_create_huge_values(name, short):
    tracemalloc.start()
    try:
        refused(HUGE[name], "is stopped|'lipsum' is undefined")
        assert tracemalloc.get_traced_memory()[1] < 60 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parity("T7")
def test_failing_chat_templates_raise_short_errors(name):
    refused(*WRONG[name])


def test_limits_hold_in_threads_independently():
    found = []

    def both():
        refused(ENDLESS["nested ranges"], "steps")
        found.append(chat.render("{{ messages|length }}", CHAT, {}))

    threads = [threading.Thread(target=both) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["3"] * 4


def test_last_step_exhausts_the_budget():
    meter = chat_limits.Meter(CHAT)
    meter.spend(meter.left)
    with pytest.raises(chat_limits.LimitError, match="too many steps"):
        meter.spend(1)


def test_limits_are_deterministic():
    left = []
    for _ in range(2):
        meter = chat_limits.Meter(CHAT)
        before = meter.left
        meter.charge_nested(CHAT, read=True)
        left.append(before - meter.left)
    assert left[0] == left[1] > len(CHAT)


def test_limits_grow_with_the_conversation():
    many = [{"role": "user", "content": "word " * 200}] * 2000
    quadratic = "{% for m in messages %}{{ (messages|selectattr('role', 'equalto', 'user')|list)|length }}{% endfor %}"
    assert chat.render("{% for m in messages %}{{ m.content|trim ~ eos_token }}{% endfor %}", many, {"eos_token": "E"})
    assert chat.render(quadratic, many[:150], {}) == "150" * 150


def test_templates_must_be_str():
    with pytest.raises(ValueError, match="Jinja template"):
        chat.render(5, CHAT, {})
    with pytest.raises(ValueError, match="templates") as caught:
        chat.select_template({"x" * 1000: "a", **{str(i): "b" for i in range(1000)}}, None)
    assert len(str(caught.value)) <= 500


ORDINARY = [
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
    "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}"
    "{{ eos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% else %}"
    "{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
    "{%- set ns = namespace(first=true, text='') -%}\n{%- for m in messages -%}\n{%- if ns.first %}"
    "{% set ns.first = false %}{% set ns.text = ns.text ~ m.content %}{% endif -%}\n{{ loop.first }}"
    "{{ loop.last }}{{ loop.length }}{{ loop.index }}{{ loop.previtem is defined }}"
    "{{ loop.nextitem is defined }}{{ loop.cycle('a', 'b') }}{{ loop.changed(m.role) }}\n{%- endfor -%}"
    "{{ ns.text }}",
    "{% macro show(m, end='') %}{{ m.role|upper }}: {{ m.content|trim }}{{ end }}{{ caller() if caller }}"
    "{% endmacro %}{% for m in messages %}{{ show(m, end=eos_token) }}{% call show(m) %}!{% endcall %}"
    "{% endfor %}",
    "{{ messages|selectattr('role', 'equalto', 'user')|map(attribute='content')|join(', ') }}"
    "{{ messages|rejectattr('score')|list|length }}{{ (messages|first).role }}"
    "{{ (messages|last).score|round(1) }}",
    "{{ messages[1].tags|unique|sort|join('/') }}{{ messages[1].tags|reverse|list }}"
    "{{ messages[1]|dictsort }}{{ messages[1].tags|batch(2, '-')|list }}"
    "{{ messages[1].tags|slice(2)|list }}{{ messages|groupby('role')|length }}",
    "{{ '%s: %03d' % ('a', 7) }}{{ '%.2f'|format(2.5) }}{{ '{} {x}'.format(1, x='y') }}{{ 'ab' * 3 }}{{ [1] * 3 }}",
    "{{ 7 // 2 + 7 % 2 - 2 ** 10 / 4 }}{{ -3|abs }}{{ '3'|int + 1 }}{{ '1.5'|float }}{{ [1, 2, 3]|sum }}"
    "{{ [3, 1]|max }}",
    "{{ {'a': [1, (2, 3)], 'b': {'c': none}} }}{{ dict(a=1).items()|list }}{{ {'a': 1}.get('b', 2) }}"
    "{{ (1, 2)[::-1] }}",
    "{% for key, value in messages[1].items() %}{{ key }}={{ value }}{% if not loop.last %};{% endif %}{% endfor %}",
    "{% for x in [[1, [2]], 3] recursive %}{{ loop(x) if x is iterable else x }}{% endfor %}"
    "{% set a, b = 1, 2 %}{{ a ~ b }}",
    "{% filter upper %}a{{ messages[0].content }}{% endfilter %}{% set t %}x{{ eos_token }}{% endset %}{{ t ~ t }}",
    "{{ messages[0].content.split('\n')[-1].title().replace('S', 'z').center(20) }}"
    "{{ 'a-b'.partition('-') }}{{ messages[0].content.startswith('  be') }}{{ ' x '.rstrip() }}"
    "{{ 'x,y'.rsplit(',', 1) }}{{ '-'.join(['a', 'b']) }}",
    "{{ messages[0].content|replace('be', 'is')|indent(4)|title|truncate(9) }}{{ '<a>'|e }}"
    "{{ '<a>'|safe }}{{ 'a b'|wordcount }}",
    "{% for m in messages if m.role != 'system' %}{{ loop.index }}{% else %}none{% endfor %}"
    "{% for m in [] %}{% else %}no{% endfor %}{% for m in nothing %}{% endfor %}{{ nothing }}"
    "{{ nothing|default('d') }}{{ 1 if nothing }}",
    "{% for i in range(5) %}{% if i == 1 %}{% continue %}{% elif i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{% block a %}b{{ eos_token }}{% endblock %}{{ self.a() }}{% with x = [1] %}{{ x in [[1]] }}"
    "{% endwith %}{{ 1 < 2 <= 2 }}",
    "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{% set j = joiner() %}{{ j() }}{{ j() }}"
    "{{ not true and 1 }}",
    "{{ messages is sequence }}{{ messages[0] is mapping }}{{ 'a' is string }}{{ 2 is divisibleby(2) }}"
    "{{ 'a' is in('ab') }}",
]


@pytest.mark.parametrize("template", ORDINARY)
@pytest.mark.parity("T7")
def test_ordinary_templates_equal_plain_jinja(template):
    plain = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    plain.globals["raise_exception"] = None
    variables = {"add_generation_prompt": True, "eos_token": "</s>"}
    expected = plain.from_string(template).render(messages=CHAT, **variables)
    assert expected and chat.render(template, CHAT, variables) == expected


@pytest.mark.parametrize("indent", [None, 0, 2, "--"])
def test_tojson_equals_json_dumps(indent):
    value = {"b": ["né", 'say "no"', 1.5, None], "a": {"": [], "c": {}}}
    text = chat.render("{{ messages|tojson(" + json.dumps(indent).replace("null", "none") + ") }}", value, {})
    assert text == json.dumps(value, ensure_ascii=False, indent=indent)
