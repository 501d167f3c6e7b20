"""Calls the function of a stage: by the names of its parameters it says what it wants to see.

`results` (of all ancestors, by stage name), `config`, `seed`, `outputs` (a directory), the name of an ancestor, or a
key of the configuration; one parameter of any other name gets the results, as in `lambda previous: …`.
"""

from __future__ import annotations

from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from .shapes import JsonValue


def call_stage(
    function: Callable[..., object], config: dict[str, JsonValue], results: dict[str, object], seed: int, outputs: str
) -> object:
    """Call the function with what it asks for and return what it returns; whatever it raises passes through.

    Raises:
        TypeError: a parameter without a default that stands for nothing here.
    """
    import inspect

    words: dict[str, Any] = {"results": results, "config": config, "seed": seed, "outputs": Path(outputs)}
    known = {**config, **results, **words}
    positional: list[Any] = []
    named: dict[str, Any] = {}
    unknown: list[str] = []
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError:  # a builtin that has none
        return function(results)
    for parameter in parameters:
        if parameter.kind is parameter.VAR_KEYWORD:
            named.update({key: value for key, value in config.items() if key not in named})
        elif parameter.kind is parameter.VAR_POSITIONAL:
            continue
        elif parameter.name in known:
            if parameter.kind is parameter.POSITIONAL_ONLY:
                positional.append(known[parameter.name])
            else:
                named[parameter.name] = known[parameter.name]
        elif parameter.default is parameter.empty:
            unknown.append(parameter.name)
    if len(unknown) == 1 and parameters[0].name == unknown[0]:
        return function(results, *positional, **named)
    if unknown:
        keys, earlier = ", ".join(config) or "none", ", ".join(results) or "none"
        raise TypeError(
            f"the stage's function asks for {', '.join(unknown)}; known are results, config, seed, outputs, the stages "
            f"before it ({earlier}) and the keys of its config ({keys})"
        )
    return function(*positional, **named)
