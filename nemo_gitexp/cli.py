"""The command line: all verbs, global options, and what becomes of exceptions. Each verb's own options: `commands`."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, cast

import typer

from nemo_gitexp.commands import following, imports, looking, readiness, repeating, running, sharing, sweeping
from nemo_gitexp.commands.call import CALL, EXIT_BUG, EXIT_INTERRUPTED, EXIT_NO_ANSWER, EXIT_USAGE
from nemo_gitexp.console import Console, write
from nemo_gitexp.documents import SCHEMA
from nemo_gitexp.errors import GitexpError, UsageError
from nemo_gitexp.report.error import error_document, render_error

GLOBAL_FLAGS = {"--json", "-q", "--quiet", "-v", "--verbose", "--no-color"}

app = typer.Typer(
    name="nemo-gitexp",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Every experiment is a git commit that can be found, explained, compared, reviewed and run again, with proof.",
    epilog="Global options may stand anywhere before `--`. Answers go to stdout, talk to stderr. "
    "Exit: 0 yes, 1 no, 2 usage, 3 could not answer, 70 bug, 130 interrupted. Example: nemo-gitexp run digits lr=0.05",
)
_CLICK_ERROR = cast("type[Exception]", typer.BadParameter.__mro__[2])
"""Click's ClickException: newer typers keep a click of their own, older ones import it."""


def _print_version(value: bool) -> None:  # noqa: FBT001 - the form that typer calls
    if value:
        from nemo_gitexp import __version__

        CALL.console.answer(f"nemo-gitexp {__version__}", {"schema": SCHEMA, "version": __version__})
        raise typer.Exit


@app.callback()
def _options(
    directory: Annotated[Path, typer.Option("-C", metavar="DIR", help="work as if started in DIR")] = Path(),
    *,
    as_json: Annotated[bool, typer.Option("--json", help="answer with one JSON document")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="no talk, answers only")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="tracebacks of errors too")] = False,
    no_color: Annotated[bool, typer.Option("--no-color", help="no colours (so does NO_COLOR)")] = False,
    version: Annotated[  # noqa: ARG001 - its callback has answered before
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    CALL.console = Console(json=as_json, quiet=quiet, verbose=verbose, color=False if no_color else None)
    CALL.directory = Path(directory).absolute()


_VERBS: tuple[tuple[Callable[..., None], str], ...] = (
    (readiness.init, "Example: nemo-gitexp init --study digits"),
    (running.run, "Examples: nemo-gitexp run digits lr=0.05    nemo-gitexp run -- python train.py --lr 0.1"),
    (sweeping.sweep, "Example: nemo-gitexp sweep digits lr=0.05,0.1 seed=1..3 --jobs 2"),
    (running.launch, "Example: nemo-gitexp launch latest"),
    (repeating.reproduce, "Example: nemo-gitexp reproduce 1a2b3c4 --require bitwise"),
    (
        repeating.probe,
        "Examples: nemo-gitexp probe latest --vary threads,hashseed    nemo-gitexp probe digits lr=0.1 --steps 20",
    ),
    (following.status, "Example: nemo-gitexp status"),
    (following.logs, "Example: nemo-gitexp logs latest -f"),
    (following.cancel, "Example: nemo-gitexp cancel latest"),
    (following.collect, "Example: nemo-gitexp collect"),
    (
        looking.log,
        "Example: nemo-gitexp log --where 'metrics.accuracy > 0.95 and config.lr < 0.1' --sort -metrics.accuracy",
    ),
    (looking.show, "Example: nemo-gitexp show latest"),
    (looking.outputs, "Example: nemo-gitexp outputs latest --get /tmp/model model.pt"),
    (looking.checkout, "Example: nemo-gitexp checkout latest ../as-it-was"),
    (looking.diff, "Example: nemo-gitexp diff latest --format md"),
    (sharing.push, "Examples: nemo-gitexp push    nemo-gitexp push origin latest --branch"),
    (sharing.pull, "Examples: nemo-gitexp pull    nemo-gitexp pull origin latest:digits"),
    (readiness.config, "Example: nemo-gitexp config"),
    (readiness.doctor, "Examples: nemo-gitexp doctor    nemo-gitexp doctor --executor a100"),
)
"""Each verb of the command line and what stands below its help, in the order of the help."""

for _verb, _example in _VERBS:
    app.command(epilog=_example)(_verb)
app.add_typer(imports.imports, name="import")


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], tuple[str, ...] | None]:
    """Return the arguments with global options in front, and the command after `--` (None without one).

    Only `run` and `probe` take a command; for other verbs what stands behind `--` are its arguments, as everywhere.
    """
    words, behind = list(arguments), None
    if "--" in words:
        at = words.index("--")
        words, behind = words[:at], tuple(words[at + 1 :])
    front: list[str] = []
    rest: list[str] = []
    position = 0
    while position < len(words):
        word = words[position]
        if word in GLOBAL_FLAGS:
            front.append(word)
        elif word == "-C" and position + 1 < len(words):
            front += [word, words[position + 1]]
            position += 1
        else:
            rest.append(word)
        position += 1
    if behind is not None and rest[:1] not in (["run"], ["probe"]):
        return [*front, *rest, "--", *behind], None
    return front + rest, behind


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one call and return its exit code; the only place that turns exceptions into exits."""
    words, command = split_arguments(sys.argv[1:] if arguments is None else arguments)
    CALL.command = command
    CALL.console = Console(json="--json" in words)
    CALL.exit_code, CALL.failure_code = 0, None
    if not words and command is None:
        words = ["--help"]
        CALL.exit_code = EXIT_USAGE
    return _guarded(lambda: _invoke(words))


def _invoke(words: list[str]) -> None:
    program = typer.main.get_command(app)
    try:
        outcome = program.main(words, prog_name="nemo-gitexp", standalone_mode=False)
    except _CLICK_ERROR as fault:
        raise UsageError(_click_message(fault), hint="nemo-gitexp --help") from fault
    if isinstance(outcome, int) and outcome != 0:
        CALL.exit_code = outcome


def _click_message(fault: BaseException) -> str:
    render: Callable[[], str] | None = getattr(fault, "format_message", None)
    return (render() if render is not None else str(fault)).rstrip(".")


def _guarded(work: Callable[[], None]) -> int:
    try:
        work()
    except GitexpError as error:
        _fail(error)
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return EXIT_INTERRUPTED
    except OSError as fault:
        _fail(_as_state_error(fault))
        code = EXIT_NO_ANSWER
    except Exception as bug:  # noqa: BLE001 - the last line of defence: a bug becomes a report, not a stack on the screen
        code = _report_bug(bug)
    else:
        return CALL.exit_code
    return CALL.failure_code or code


def _as_state_error(fault: OSError) -> GitexpError:
    from nemo_gitexp.errors import StateDirectoryError

    path = fault.filename if isinstance(fault.filename, str) else ""
    return StateDirectoryError(
        f"{fault.strerror or fault}: {path}".rstrip(": "), hint="df -h; ls -ld the directory", path=path
    )


def _fail(error: GitexpError) -> None:
    if CALL.console.json:
        CALL.console.answer("", error_document(error))
    else:
        with contextlib.suppress(OSError):  # then only the exit code can tell
            write(sys.stderr, render_error(error, style=CALL.console.error_style))
    if CALL.console.verbose:
        traceback.print_exception(error, file=sys.stderr)


def _report_bug(bug: Exception) -> int:
    import tempfile

    with tempfile.NamedTemporaryFile(
        "w", prefix="nemo-gitexp-bug-", suffix=".log", delete=False, encoding="utf-8", errors="backslashreplace"
    ) as file:
        file.write(f"nemo-gitexp {' '.join(sys.argv[1:])}\npython {sys.version}\n\n")
        traceback.print_exception(bug, file=file)
    error = GitexpError(f"a bug of nemo-gitexp: {type(bug).__name__}: {bug}", hint=f"please report it with {file.name}")
    _fail(error)
    return EXIT_BUG
