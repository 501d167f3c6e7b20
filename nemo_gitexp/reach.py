"""Which of a repository's code a stage can reach, read from the sources alone: nothing is imported or run. Pure.

Whoever is in doubt counts more: what is not understood makes all code count, and then a stage is run again where it
need not have been. Never the other way round.
"""

from __future__ import annotations

import ast
import posixpath
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
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
from nemo_gitexp.signatures import parsed_source, target_names

EVERYTHING = "*"
"""Stands among the modules that a carried function refers to when it may reach any."""

Reader: TypeAlias = Callable[[Sequence[str]], Mapping[str, bytes]]
"""Returns the content of files of the tree, by path."""

DYNAMIC_MODULES = frozenset(
    {"builtins", "code", "codeop", "hydra", "imp", "importlib", "invoke", "pexpect", "pkgutil"}
    | {"plumbum", "pty", "pydoc", "runpy", "sh", "subprocess", "zipimport"}
)
"""Modules that import or run what a source does not name."""

DYNAMIC_NAMES = frozenset(
    {"__builtins__", "__import__", "compile", "entry_points", "eval", "exec", "globals"}
    | {"import_module", "import_string", "instantiate", "locals", "vars"}
)
"""Functions that do, by the names that a source calls them by."""

DYNAMIC_ATTRIBUTES = frozenset(
    {"__builtins__", "__globals__", "__subclasses__", "create_subprocess_exec"}
    | {"create_subprocess_shell", "entry_points", "f_globals", "f_locals", "fork_exec"}
    | {"import_module", "import_string", "instantiate", "posix_spawn", "posix_spawnp"}
    | {"startfile"}
)
"""What leads there from any object."""

DYNAMIC_OF = {"os": ("exec", "fork", "popen", "posix_spawn", "spawn", "system"), "sys": ("modules", "meta_path")}
"""How the names in these two modules begin that do."""

_HARMLESS_DECORATORS = frozenset(
    {"cache", "contextmanager", "dataclass", "lru_cache", "no_grad", "overload", "total_ordering", "wraps"}
)
_PLAIN_VALUES = (ast.Constant, ast.Name, ast.Tuple, ast.List, ast.Dict, ast.Set, ast.expr_context)
_PLAIN_NUMBERS = (ast.Constant, ast.UnaryOp, ast.BinOp, ast.operator, ast.unaryop)
_ALWAYS_RUN = ("sitecustomize.py", "usercustomize.py")
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
    others += [path for path in tree if posixpath.basename(path) in _ALWAYS_RUN]
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
            self._follow_tree(parsed_source(entry.code.encode()), "")
        else:
            path = posixpath.normpath(posixpath.join(workdir, entry.path))
            self._follow_files([path] if path in self._tree else [])
            self.is_everything = self.is_everything or path not in self._tree

    def _follow_function(self, entry: FunctionEntry) -> None:
        if entry.digest is not None:  # carried by value: the digest, which is part of the entry, knows its own code
            self.is_everything = self.is_everything or EVERYTHING in entry.refers
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
        tree = parsed_source(content)
        used = _used_statements(tree, name.partition(".")[0], self._own_names(tree, path)) if tree else None
        if used is None:
            self._follow_files([path])
            return
        self.parts.append([path, [ast.dump(node) for node in used]])
        self._follow_tree(ast.Module(body=list(used), type_ignores=[]), path)
        self.texts.append("\n".join(ast.unparse(node) for node in used))

    def _own_names(self, tree: ast.Module, path: str) -> set[str]:
        """Return the names that a file imports from this repository."""
        imports = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
        ours = [node for node in imports if any(self._modules(name) for name in _imported(node, path))]
        return {name for node in ours for name in _bound_names(node)}

    def _follow_files(self, paths: Iterable[str]) -> None:
        waiting = [path for path in dict.fromkeys(paths) if path in self._tree and path not in self.files]
        self.files.update(waiting)
        if not waiting:
            return
        for path, content in self._read(waiting).items():
            self.texts.append(content.decode("utf-8", "replace"))
            self._follow_tree(parsed_source(content), path)

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
    """Return whether a source may run or import code that it does not name, or reads sources as text."""
    aliases = _aliases(tree)
    return any(_is_dynamic_node(node, aliases) for node in ast.walk(tree))


def _is_dynamic_node(node: ast.AST, aliases: Mapping[str, str]) -> bool:
    if isinstance(node, ast.Name):
        return node.id in DYNAMIC_NAMES
    if isinstance(node, ast.Attribute):
        owner = aliases.get(node.value.id, "") if isinstance(node.value, ast.Name) else ""
        return node.attr in DYNAMIC_ATTRIBUTES or node.attr.startswith(DYNAMIC_OF.get(owner, ()))
    if isinstance(node, ast.Import):
        return any(alias.name.partition(".")[0] in DYNAMIC_MODULES for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        module = (node.module or "").partition(".")[0]
        begins = DYNAMIC_OF.get(module, ())
        return module in DYNAMIC_MODULES or any(
            alias.name in DYNAMIC_ATTRIBUTES or alias.name.startswith(begins) for alias in node.names
        )
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and names_source(node.value)


def names_source(text: str) -> bool:
    """Return whether a text may lead to a source as data: it names one, or a pattern of such."""
    return re.search(r"\.py\b", text) is not None and "\n" not in text


def _aliases(tree: ast.AST) -> dict[str, str]:
    """Return what a source calls `os` and `sys`."""
    imports = (node for node in ast.walk(tree) if isinstance(node, ast.Import))
    found = {alias.asname or alias.name: alias.name for node in imports for alias in node.names}
    return {"os": "os", "sys": "sys", **{name: module for name, module in found.items() if module in DYNAMIC_OF}}


# ------------------------------------------------------------------------------------------------- parts of one file


def _used_statements(tree: ast.Module, name: str, own: Collection[str]) -> list[ast.stmt] | None:
    """Return the statements of a file that run on import or that a definition uses, in order; None: all of them.

    Args:
        tree: the file.
        name: of the definition.
        own: names that the file imports from this repository.
    """
    bound = {position: _bound_names(node) for position, node in enumerate(tree.body)}
    if not any(name in names for names in bound.values()) or _imports_star(tree):
        return None
    everywhere = _read_names(tree)
    bases = {*own, *(node.name for node in tree.body if isinstance(node, ast.ClassDef))}
    used = {at for at, node in enumerate(tree.body) if _always_counts(node, everywhere, bases)}
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


def _always_counts(node: ast.stmt, read_everywhere: Collection[str], own_bases: Collection[str]) -> bool:
    """Return whether a statement at the top level does something beside giving a name to a value.

    Args:
        node: the statement.
        read_everywhere: the names that the file reads.
        own_bases: names of the file that may be classes of this repository, which can notice who inherits from them.
    """
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return any(not _is_harmless(each) for each in node.decorator_list) or _calls(node.args)
    if isinstance(node, ast.ClassDef):
        roots = {name for base in node.bases for name in _read_names(base)}
        makes_base = any(isinstance(part, ast.Call) for base in node.bases for part in ast.walk(base))
        is_noticed = bool(node.keywords or makes_base or roots & set(own_bases))
        return is_noticed or any(not _is_harmless(each) for each in node.decorator_list) or _runs(node)
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return not (_bound_names(node) & set(read_everywhere))  # imported for its effect alone
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return not all(isinstance(each, (ast.Name, ast.Tuple)) for each in targets) or not _is_plain(node.value)
    if isinstance(node, ast.Expr):
        return not isinstance(node.value, ast.Constant)
    return not (isinstance(node, (ast.Pass, ast.If)) and _never_runs(node))


def _is_plain(value: ast.expr | None) -> bool:
    """Return whether a value is made without running anything: constants, names, containers of them, lambdas."""
    if value is None or isinstance(value, ast.Lambda):
        return value is None or not _calls(value.args)
    if isinstance(value, (ast.UnaryOp, ast.BinOp)):
        return all(isinstance(part, _PLAIN_NUMBERS) for part in ast.walk(value))
    if not isinstance(value, _PLAIN_VALUES):
        return False
    return all(_is_plain(part) for part in ast.iter_child_nodes(value) if isinstance(part, ast.expr))


def _calls(node: ast.AST) -> bool:
    return any(isinstance(part, (ast.Call, ast.Attribute, ast.Subscript)) for part in ast.walk(node))


def _runs(node: ast.ClassDef) -> bool:
    """Return whether the body of a class does more than define: what it calls may tell somebody about it."""
    for part in node.body:
        if isinstance(part, (ast.Assign, ast.AnnAssign)) and not _is_plain(part.value):
            return True
        if isinstance(part, ast.Expr) and not isinstance(part.value, ast.Constant):
            return True
        if isinstance(part, (ast.For, ast.While, ast.With, ast.Try, ast.If)):
            return True
    return False


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
        return target_names(node)
    stored = (each.id for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store))
    return set(stored)


def _read_names(node: ast.AST) -> set[str]:
    """Return the names that a source reads, those in quoted annotations too."""
    names = {each.id for each in ast.walk(node) if isinstance(each, ast.Name) and not isinstance(each.ctx, ast.Store)}
    hints = (getattr(each, field, None) for each in ast.walk(node) for field in ("annotation", "returns"))
    quoted = (part for hint in hints if isinstance(hint, ast.AST) for part in ast.walk(hint))
    texts = (part.value for part in quoted if isinstance(part, ast.Constant) and isinstance(part.value, str))
    return names | {name for text in texts for name in re.findall(r"[^\W\d]\w*", text)}
