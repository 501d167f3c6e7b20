"""The parameters of functions, from their sources or from themselves; and what a stage's may stand for. Pure."""

from __future__ import annotations

import ast
import inspect
from dataclasses import dataclass

WORDS = ("results", "config", "seed", "outputs")
"""What a stage's function may ask for by the name of a parameter, beside earlier stages and keys of its config."""


@dataclass(frozen=True, slots=True)
class Signature:
    """The parameters of a function: names, those without a default, whether it takes any keyword."""

    names: tuple[str, ...]
    required: tuple[str, ...]
    takes_all: bool


def find_signature(source: bytes, qualified_name: str) -> Signature | None:
    """Return the parameters of a function at the top level of a source; None for anything else or harder to read."""
    tree = parsed_source(source)
    for node in tree.body if tree else ():
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == qualified_name:
            return None if node.decorator_list else _signature(node.args)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Lambda) and qualified_name in target_names(node):
            return _signature(node.value.args)
    return None


def _signature(arguments: ast.arguments) -> Signature:
    positional = [*arguments.posonlyargs, *arguments.args]
    first_default = len(positional) - len(arguments.defaults)
    required = [each.arg for each in positional[:first_default]]
    required += [
        each.arg for each, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if default is None
    ]
    names = tuple(each.arg for each in (*positional, *arguments.kwonlyargs))
    return Signature(names, tuple(required), takes_all=arguments.kwarg is not None)


def live_signature(function: object) -> Signature | None:
    """Return the parameters of a function that is here; None for builtins that do not tell."""
    try:
        parameters = list(inspect.signature(function).parameters.values())  # type: ignore[arg-type]  # others raise
    except (TypeError, ValueError):
        return None
    plain = [each for each in parameters if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)]
    return Signature(
        tuple(each.name for each in plain),
        tuple(each.name for each in plain if each.default is each.empty),
        takes_all=any(each.kind is each.VAR_KEYWORD for each in parameters),
    )


def parsed_source(source: bytes) -> ast.Module | None:
    """Return the syntax tree of a source, None where it cannot be read."""
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError):
        return None


def target_names(node: ast.Assign | ast.AnnAssign) -> set[str]:
    """Return the names that an assignment gives to values."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    names = (each for target in targets for each in ast.walk(target) if isinstance(each, ast.Name))
    return {each.id for each in names if isinstance(each.ctx, ast.Store)}
