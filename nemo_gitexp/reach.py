"""Which of a repository's code a stage can reach, read from the sources alone: nothing is imported or run. Pure.

Whoever is in doubt counts more: what is not understood makes all code count, and then a stage is run again where it
need not have been. Never the other way round.
"""

from __future__ import annotations

import ast
import posixpath
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from nemo_gitexp.entry import (
    CodeEntry,
    CommandEntry,
    Entry,
    FunctionEntry,
    InteractiveEntry,
    ModuleEntry,
    NotebookEntry,
)
from nemo_gitexp.jsontext import JsonValue

Reader: TypeAlias = Callable[[Sequence[str]], Mapping[str, bytes]]
"""Returns the content of files of the tree, by path."""

WORDS = ("results", "config", "seed", "outputs")
"""What a stage's function may ask for by the name of a parameter, beside earlier stages and keys of its config."""

_DYNAMIC = frozenset(
    {
        "__import__",
        "compile",
        "eval",
        "exec",
        "globals",
        "importlib",
        "locals",
        "pkgutil",
        "runpy",
        "subprocess",
        "vars",
    }
)
_DYNAMIC_CALLS = ("execl", "execv", "popen", "posix_spawn", "spawn", "startfile", "system")
_HARMLESS_DECORATORS = frozenset(
    {"cache", "contextmanager", "dataclass", "lru_cache", "no_grad", "overload", "total_ordering", "wraps"}
)
_NO_CODE_ENDINGS = (".md", ".rst", ".ipynb", ".dvc", ".pyc")
_NO_CODE_NAMES = (
    ".dockerignore",
    ".dvcignore",
    ".gitattributes",
    ".gitignore",
    ".gitmodules",
    "CODEOWNERS",
    "LICENSE",
    "NOTICE",
    "dvc.lock",
    "dvc.yaml",
)
_NO_CODE_DIRECTORIES = (".dvc/", ".github/", ".gitlab/", "docs/")


@dataclass(frozen=True, slots=True)
class Signature:
    """The parameters of a function: names, those without a default, whether it takes any keyword."""

    names: tuple[str, ...]
    required: tuple[str, ...]
    takes_all: bool


def find_signature(source: bytes, qualified_name: str) -> Signature | None:
    """Return the parameters of a function at the top level of a source; None for anything else or harder to read."""
    tree = _parsed(source)
    for node in tree.body if tree else ():
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == qualified_name:
            return None if node.decorator_list else _signature(node.args)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Lambda) and qualified_name in _targets(node):
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


def reached_code(entry: Entry, workdir: str, tree: Mapping[str, str], read: Reader) -> JsonValue:
    """Return what stands for the code that an entry point can reach: equal values mean equal code.

    Args:
        entry: what runs.
        workdir: where, relative to the root of the repository.
        tree: the repository's code: path to blob sha.
        read: reads files of it.

    Returns:
        Path and blob sha of whole files, and of the function's own file the definitions that it uses, as text. Files
        that are no Python count as a whole, but for prose and what git and DVC keep.
    """
    walk = _Walk(tree, read)
    walk.follow(entry, workdir)
    if walk.is_everything:
        return {"files": [[path, sha] for path, sha in sorted(tree.items())]}
    text = "\n".join(walk.texts)
    others = [path for path in tree if not path.endswith(".py") and (not _is_prose(path) or _is_named(path, text))]
    files = sorted({*walk.files, *others})
    return {"files": [[path, tree[path]] for path in files], "parts": walk.parts}


def _is_prose(path: str) -> bool:
    """Return whether no program reads a file as a rule; one whose name stands in the code counts all the same."""
    name = posixpath.basename(path)
    return (
        name.endswith(_NO_CODE_ENDINGS)
        or name.partition(".")[0] in _NO_CODE_NAMES
        or name in _NO_CODE_NAMES
        or path.startswith(_NO_CODE_DIRECTORIES)
    )


def _is_named(path: str, text: str) -> bool:
    name = posixpath.basename(path)
    ending = posixpath.splitext(name)[1]
    return name in text or (ending in (".md", ".rst", ".ipynb") and ending in text)


class _Walk:
    """Follows imports from an entry point through the files of a tree."""

    def __init__(self, tree: Mapping[str, str], read: Reader) -> None:
        self._tree = tree
        self._read = read
        self.files: set[str] = set()
        self.parts: list[JsonValue] = []
        self.texts: list[str] = []
        self.is_everything = False

    def follow(self, entry: Entry, workdir: str) -> None:
        """Take in all that the entry point can reach."""
        if isinstance(entry, (CommandEntry, InteractiveEntry, NotebookEntry)):
            self.is_everything = True
        elif isinstance(entry, FunctionEntry):
            self._follow_function(entry)
        elif isinstance(entry, ModuleEntry):
            self._follow_files([*self._modules(entry.module), *self._modules(f"{entry.module}.__main__")])
        elif isinstance(entry, CodeEntry):
            self._follow_tree(_parsed(entry.code.encode()), "")
        else:
            path = posixpath.normpath(posixpath.join(workdir, entry.path))
            self._follow_files([path] if path in self._tree else [])
            self.is_everything = self.is_everything or path not in self._tree

    def _follow_function(self, entry: FunctionEntry) -> None:
        if entry.digest is not None:  # carried by value: the digest, which is part of the entry, knows its own code
            self._follow_files([path for name in entry.refers for path in self._modules(name)])
            return
        place, _, name = entry.target.rpartition(":")
        homes = [place] if place.endswith(".py") else self._modules(place)
        own = [path for path in homes if not path.endswith("__init__.py")] or homes
        if len(own) == 1 and own[0] in self._tree:
            self._follow_files([path for path in homes if path != own[0]])
            self._follow_part(own[0], name)
        else:  # none: an installed package, which the environment knows; several: whichever it is
            self._follow_files(own)

    def _follow_part(self, path: str, name: str) -> None:
        content = self._read([path]).get(path, b"")
        tree = _parsed(content)
        used = _used_statements(tree, name.partition(".")[0]) if tree else None
        if used is None:
            self._follow_files([path])
            return
        self.parts.append([path, [ast.dump(node) for node in used]])
        self._follow_tree(ast.Module(body=list(used), type_ignores=[]), path)
        self.texts.append("\n".join(ast.unparse(node) for node in used))

    def _follow_files(self, paths: Iterable[str]) -> None:
        waiting = [path for path in dict.fromkeys(paths) if path in self._tree and path not in self.files]
        self.files.update(waiting)
        if not waiting:
            return
        for path, content in self._read(waiting).items():
            self.texts.append(content.decode("utf-8", "replace"))
            self._follow_tree(_parsed(content), path)

    def _follow_tree(self, tree: ast.Module | None, path: str) -> None:
        if tree is None or _is_dynamic(tree):
            self.is_everything = True
            return
        found = [file for name in _imported(tree, path) for file in self._modules(name)]
        self._follow_files(found)

    def _modules(self, name: str) -> list[str]:
        """Return every file that may be what a dotted name imports, wherever the import path begins.

        The files of the packages above it run, too.
        """
        stem = name.replace(".", "/")
        ends = (f"/{stem}.py", f"/{stem}/__init__.py")
        found = [path for path in self._tree if f"/{path}".endswith(ends)]
        above = {f"{parent}/__init__.py" for path in found for parent in _parents(path)}
        return [*found, *sorted(above & self._tree.keys())]


def _parents(path: str) -> Iterator[str]:
    while path := posixpath.dirname(path):
        yield path


def _parsed(source: bytes) -> ast.Module | None:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError):
        return None


def _imported(tree: ast.AST, path: str) -> list[str]:
    """Return the dotted names that a source may import, relative ones as if the path began at the root."""
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _base_of(node, path)
            names += [base] if base else []
            names += [f"{base}.{alias.name}".lstrip(".") for alias in node.names if alias.name != "*"]
    return [part for name in dict.fromkeys(names) for part in _with_packages(name)]


def _with_packages(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _base_of(node: ast.ImportFrom, path: str) -> str:
    if not node.level:
        return node.module or ""
    directory = posixpath.dirname(path)
    for _ in range(node.level - 1):
        directory = posixpath.dirname(directory)
    return ".".join(part for part in (directory.replace("/", "."), node.module or "") if part)


def _is_dynamic(tree: ast.AST) -> bool:
    """Return whether a source may run or import code that it does not name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in _DYNAMIC:
            return True
        if isinstance(node, ast.Attribute) and node.attr.startswith(_DYNAMIC_CALLS) and _is_named_os(node.value):
            return True
        if isinstance(node, ast.ImportFrom):
            module = (node.module or "").partition(".")[0]
            if module in _DYNAMIC or (module == "os" and any(n.name.startswith(_DYNAMIC_CALLS) for n in node.names)):
                return True
    return False


def _is_named_os(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "os"


# ------------------------------------------------------------------------------------------------- parts of one file


def _used_statements(tree: ast.Module, name: str) -> list[ast.stmt] | None:
    """Return the statements of a file that run on import or that a definition uses, in order; None: all of them."""
    bound = {position: _bound_names(node) for position, node in enumerate(tree.body)}
    if not any(name in names for names in bound.values()) or _imports_star(tree):
        return None
    everywhere = _read_names(tree)
    used = {at for at, node in enumerate(tree.body) if _always_counts(node, everywhere)}
    wanted = {name} | {each for at in used for each in _read_names(tree.body[at])}
    grown = True
    while grown:
        more = {at for at, names in bound.items() if at not in used and names & wanted}
        used |= more
        wanted |= {each for at in more for each in _read_names(tree.body[at])}
        grown = bool(more)
    return [tree.body[at] for at in sorted(used)]


def _imports_star(tree: ast.Module) -> bool:
    return any(isinstance(node, ast.ImportFrom) and node.names[0].name == "*" for node in tree.body)


def _always_counts(node: ast.stmt, read_everywhere: Collection[str]) -> bool:
    """Return whether a statement at the top level does something beside giving a name to a value."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return any(not _is_harmless(decorator) for decorator in node.decorator_list)
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return not (_bound_names(node) & set(read_everywhere))  # imported for its effect alone
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        is_plain = all(isinstance(each, (ast.Name, ast.Tuple)) for each in targets)
        return not is_plain or any(isinstance(part, ast.Call) for part in ast.walk(node))
    if isinstance(node, ast.Expr):
        return not isinstance(node.value, ast.Constant)
    return not (isinstance(node, (ast.Pass, ast.If)) and _never_runs(node))


def _never_runs(node: ast.stmt) -> bool:
    """Return whether this is `if __name__ == "__main__":` or `if TYPE_CHECKING:`, which no import enters."""
    if not isinstance(node, ast.If):
        return True
    test = node.test
    if isinstance(test, ast.Compare) and isinstance(test.left, ast.Name) and not node.orelse:
        return test.left.id == "__name__" and isinstance(test.ops[0], ast.Eq)
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING" and not node.orelse


def _is_harmless(decorator: ast.expr) -> bool:
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    name = called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""
    return name in _HARMLESS_DECORATORS


def _bound_names(node: ast.stmt) -> set[str]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {node.name}
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        return _targets(node)
    stored = (each.id for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store))
    return set(stored)


def _targets(node: ast.Assign | ast.AnnAssign) -> set[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    names = (each for target in targets for each in ast.walk(target) if isinstance(each, ast.Name))
    return {each.id for each in names if isinstance(each.ctx, ast.Store)}


def _read_names(node: ast.AST) -> set[str]:
    """Return the names that a source reads, those in quoted annotations too."""
    names = {each.id for each in ast.walk(node) if isinstance(each, ast.Name) and not isinstance(each.ctx, ast.Store)}
    hints = (getattr(each, field, None) for each in ast.walk(node) for field in ("annotation", "returns"))
    quoted = (part for hint in hints if isinstance(hint, ast.AST) for part in ast.walk(hint))
    texts = (part.value for part in quoted if isinstance(part, ast.Constant) and isinstance(part.value, str))
    return names | {name for text in texts for name in re.findall(r"[^\W\d]\w*", text)}
