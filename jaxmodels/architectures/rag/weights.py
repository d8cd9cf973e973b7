"""RAG's weight table: those of its parts, under their names in it (docs/parity.md, A1, A3)."""

import dataclasses
from functools import cache

from jaxmodels.architectures.bart.weights import TABLE as BART
from jaxmodels.architectures.dpr.weights import CONTEXT, QUESTION
from jaxmodels.architectures.t5.weights import TABLE as T5
from jaxmodels.convert import Rule, Table

GENERATORS = {"bart": BART, "t5": T5}


@cache
def table(generator: str, tied: bool) -> Table:
    """The table of a RAG with that generator; its output projection may be tied to its word vectors."""
    question, context = under("question_encoder", QUESTION), under("ctx_encoder", CONTEXT)
    generates = under("generator", GENERATORS[generator])
    return Table(
        base="rag",
        rules=question.rules + generates.rules,
        heads=question.heads + generates.heads + context.rules + context.heads,
        ignored={**question.ignored, **context.ignored, **generates.ignored},
        unused={**question.unused, **context.unused, **generates.unused},
        silent=generates.silent,
        repeats=generates.copies(tied),
        old_names={**question.old_names, **generates.old_names},
    )


def under(prefix: str, part: Table) -> Table:
    """A table whose names and paths all stand under a prefix, with the base model's name written out."""
    base = f"{prefix}.{part.base}" if part.base else prefix

    def moved(rule: Rule, onto: str) -> Rule:
        names = tuple(f"{onto}.{name}" for name in rule.sources)
        return dataclasses.replace(
            rule,
            names=names[0] if isinstance(rule.names, str) else names,
            path=f"{onto.replace('.', '/')}/{rule.path}",
        )

    in_base = {name for rule in part.rules for name in rule.sources}

    def prefixed(name: str) -> str:
        return f"{base if name in in_base else prefix}.{name}"

    def patterns(found):
        optional = f"(?:{part.base}\\.)?" if part.base else ""
        return {rf"{prefix}\.{optional}(?:{pattern})": reason for pattern, reason in found.items()}

    return Table(
        base="",
        rules=tuple(moved(rule, base) for rule in part.rules),
        heads=tuple(moved(rule, prefix) for rule in part.heads),
        ignored=patterns(part.ignored),
        unused=patterns(part.unused),
        silent=tuple(f"{prefix}/{path}" for path in part.silent),
        tied={prefixed(name): prefixed(other) for name, other in part.tied.items()},
        repeats={prefixed(name): prefixed(other) for name, other in part.repeats.items()},
        old_names=part.old_names,
    )
