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
    CallEntry,
    CodeEntry,
    CommandEntry,
    Entry,
    FunctionEntry,
    ImportedEntry,
    InteractiveEntry,
    ModuleEntry,
    NotebookEntry,
)
from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.signatures import parsed_source

EVERYTHING = "*"
"""Stands among the modules that a carried function refers to when it may reach any."""

Reader: TypeAlias = Callable[[Sequence[str]], Mapping[str, bytes]]
"""Returns the content of files of the tree, by path."""

DYNAMIC_MODULES = frozenset(
    {"builtins", "cloudpickle", "code", "codeop", "dill", "hydra", "imp", "importlib", "invoke"}
    | {"joblib", "lazy_loader", "mmcv", "mmengine", "pexpect", "pickle", "pkgutil", "plumbum"}
    | {"pty", "pydoc", "runpy", "sh", "shelve", "subprocess", "zipimport"}
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
    | {"getmembers", "import_module", "import_string", "instantiate", "posix_spawn"}
    | {"posix_spawnp", "startfile"}
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
_PROSE_NAMES = frozenset(
    {"AUTHORS", "CHANGELOG", "CHANGES", "CITATION", "CODEOWNERS", "CODE_OF_CONDUCT", "CONTRIBUTING", "COPYING"}
    | {"HISTORY", "LICENSE", "NEWS", "NOTICE", "README", "SECURITY"}
)
_PROSE_ENDINGS = ("", ".md", ".rst", ".txt")
_KEPT_BY_TOOLS = (".dockerignore", ".dvcignore", ".gitattributes", ".gitignore", ".gitmodules", "dvc.lock", "dvc.yaml")
_LINK = "120000"
_REACH_ALL = (CallEntry, CommandEntry, ImportedEntry, InteractiveEntry, NotebookEntry)
_OF_THE_RECORD = ("experiment.yaml", "experiment.json", "record/", "GITEXP_EXPERIMENT", "GITEXP_RUN_DIR")


def reached_code(
    entry: Entry,
    workdir: str,
    tree: Mapping[str, str],
    read: Reader,
    *,
    within: Collection[str],
    mentioned: str,
    left_out: Collection[str] = (),
) -> JsonValue:
    """Return what stands for the code that an entry point can reach: equal values mean equal code.

    Args:
        entry: what runs.
        workdir: where, relative to the root of the repository.
        tree: all files of the repository: path to git mode and blob sha, with a space between.
        read: reads files of it.
        within: paths that count as the study's code; what lies elsewhere counts where it is imported.
        mentioned: texts, beside those of the code, that may name files.
        left_out: paths that the tree does not hold although the repository does: configuration.

    Returns:
        Path and blob sha of whole files, and of the function's own file the definitions that it uses, as text. Files
        that are no Python count as a whole, but for the usual prose and what git and DVC keep. None: it may read what
        belongs to the record itself, of which no two experiments have the same, or what was left out.
    """
    walk = _Walk(tree, read)
    walk.follow(entry, workdir)
    text = "\n".join([*walk.texts, mentioned])
    if any(name in text for name in (*_OF_THE_RECORD, *map(posixpath.basename, left_out))):
        return None
    if walk.is_everything:
        return {"files": [[path, sha] for path, sha in sorted(tree.items())]}
    inside = [path for path in tree if path in within]
    others = [path for path in inside if not path.endswith(".py") and (not _is_prose(path) or _is_named(path, text))]
    others += [path for path in tree if posixpath.basename(path) in _ALWAYS_RUN]
    files = sorted({*walk.files, *others})
    return {"files": [[path, tree[path]] for path in files], "parts": walk.parts}


def _is_prose(path: str) -> bool:
    """Return whether no program reads a file as a rule; one whose name stands in the code counts all the same."""
    folder, name = posixpath.split(path)
    stem, ending = posixpath.splitext(name)
    is_usual = stem.upper() in _PROSE_NAMES and ending.lower() in _PROSE_ENDINGS
    is_page = f"{folder}/".startswith("docs/") and ending in (".md", ".rst")
    is_compiled = ending == ".pyc" or name.endswith((".ipynb", ".dvc"))
    return is_usual or is_page or is_compiled or name in _KEPT_BY_TOOLS or path.startswith((".dvc/", ".github/"))


def _is_named(path: str, text: str) -> bool:
    """Return whether a text names a file, or all of its kind."""
    ending = posixpath.splitext(path)[1]
    return posixpath.basename(path) in text or (ending in (".md", ".rst", ".ipynb") and ending in text)


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
        if isinstance(entry, _REACH_ALL) or self._links_lead_to_code():
            self.is_everything = True
        elif isinstance(entry, FunctionEntry):
            self._follow_function(entry)
        elif isinstance(entry, ModuleEntry):
            stem = entry.module.replace(".", "/")
            self._follow_files([*self._modules(stem), *self._modules(f"{stem}/__main__")])
        elif isinstance(entry, CodeEntry):
            self.texts.append(entry.code)
            self._follow_tree(parsed_source(entry.code.encode()), "")
        else:
            path = posixpath.normpath(posixpath.join(workdir, entry.path))
            self._follow_files([path] if path in self._tree else [])
            self.is_everything = self.is_everything or path not in self._tree

    def _links_lead_to_code(self) -> bool:
        """Return whether a symbolic link is another name for sources: what is imported by it cannot be told."""
        links = [path for path, blob in self._tree.items() if blob.startswith(_LINK)]
        targets = self._read(links) if links else {}
        for path, target in targets.items():
            place = posixpath.normpath(posixpath.join(posixpath.dirname(path), target.decode("utf-8", "replace")))
            if place.endswith(".py") or path.endswith(".py") or place in ("", "."):
                return True
            if any(other.startswith(f"{place}/") and other.endswith(".py") for other in self._tree):
                return True
        return False

    def _follow_function(self, entry: FunctionEntry) -> None:
        if entry.digest is not None:  # carried by value: the digest, which is part of the entry, knows its own code
            self.is_everything = self.is_everything or EVERYTHING in entry.refers
            self._follow_files([path for name in entry.refers for path in self._modules(name.replace(".", "/"))])
            return
        place, _, name = entry.target.rpartition(":")
        homes = [place] if place.endswith(".py") else self._modules(place.replace(".", "/"))
        own = [path for path in homes if not path.endswith("__init__.py")] or homes
        if len(own) == 1 and own[0] in self._tree:
            self._follow_files([path for path in homes if path != own[0]])
            self._follow_part(own[0], name)
        else:  # none: an installed package, which the environment knows; several: whichever it is
            self._follow_files(own)

    def _follow_part(self, path: str, name: str) -> None:
        tree = parsed_source(self._read([path]).get(path, b""))
        used = _used_statements(tree, name.partition(".")[0], self._own_names(tree, path)) if tree else None
        if tree is None or used is None:
            self._follow_files([path])
            return
        self.parts.append([path, [ast.dump(node) for node in used]])
        self.texts.append("\n".join(ast.unparse(node) for node in used))
        self._follow_tree(ast.Module(body=list(used), type_ignores=[]), path)
        unused = [node for node in tree.body if node not in used and isinstance(node, (ast.Import, ast.ImportFrom))]
        self._follow_effects([stem for node in unused for stem in _imported(node, path)], {path})

    def _own_names(self, tree: ast.Module, path: str) -> set[str]:
        """Return the names that this repository gives to something: what a file defines, and imports from others."""
        names: set[str] = set()
        for node in tree.body:
            is_import = isinstance(node, (ast.Import, ast.ImportFrom))
            if not is_import or any(map(self._modules, _imported(node, path))):
                names |= _bound_names(node)
        return names

    def _follow_effects(self, stems: Iterable[str], seen: set[str]) -> None:
        """Take in modules that are imported and not used, where importing them, or what they import, does something."""
        for path in dict.fromkeys(path for stem in stems for path in self._modules(stem)):
            if path in seen or path in self.files:
                continue
            seen.add(path)
            tree = parsed_source(self._read([path]).get(path, b""))
            own = self._own_names(tree, path) if tree else set()
            if tree is None or not all(_only_names(node, own) for node in tree.body):
                self._follow_files([path])
            else:
                self._follow_effects(_imported(tree, path), seen)

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

    def _modules(self, stem: str) -> list[str]:
        """Return every file that may be what a name imports (`package/module`), wherever the import path begins.

        The files of the packages above it run, too.
        """
        ends = (f"/{stem}.py", f"/{stem}/__init__.py")
        found = [path for path in self._tree if f"/{path}".endswith(ends)]
        above = {f"{parent}/__init__.py" for path in found for parent in _parents(path)}
        return [*found, *sorted(above & self._tree.keys())]


def _parents(path: str) -> Iterator[str]:
    while path := posixpath.dirname(path):
        yield path


def _imported(tree: ast.AST, path: str) -> list[str]:
    """Return what a source may import, as `package/module`; relative imports from the root of the repository."""
    stems: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            stems += [part for alias in node.names for part in _with_packages(alias.name)]
        elif isinstance(node, ast.ImportFrom):
            base = _base_of(node, path)
            stems += [base] if node.level else _with_packages(node.module or "")
            stems += [posixpath.join(base, alias.name) for alias in node.names if alias.name != "*"]
    return [stem for stem in dict.fromkeys(stems) if stem]


def _with_packages(name: str) -> list[str]:
    parts = name.split(".")
    return ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _base_of(node: ast.ImportFrom, path: str) -> str:
    module = (node.module or "").replace(".", "/")
    if not node.level:
        return module
    directory = posixpath.dirname(path)
    for _ in range(node.level - 1):
        directory = posixpath.dirname(directory)
    return posixpath.join(directory, module).rstrip("/")


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
    """Return the statements of a file that do something on import or that a definition uses, in order.

    None where all of the file counts: the name is not defined there, or what defines it cannot be told.

    Args:
        tree: the file.
        name: of the definition.
        own: names that this repository gives to something.
    """
    # What `if __name__ == "__main__":` gives names to is not there in a job, which imports the file.
    bound = {at: set() if _is_skipped(node) else _bound_names(node) for at, node in enumerate(tree.body)}
    if not any(name in names for names in bound.values()) or any(map(_hides_names, tree.body)):
        return None
    used = {at for at, node in enumerate(tree.body) if not _only_names(node, own)}
    wanted, grown = {name} | {each for at in used for each in _read_names(tree.body[at])}, True
    while grown:
        more = {at for at, names in bound.items() if at not in used and names & wanted}
        used |= more
        wanted |= {each for at in more for each in _read_names(tree.body[at])}
        grown = bool(more)
    return [tree.body[at] for at in sorted(used)]


def _hides_names(node: ast.stmt) -> bool:
    """Return whether a statement gives names that do not stand in it."""
    is_hook = isinstance(node, ast.FunctionDef) and node.name in ("__getattr__", "__dir__")
    return is_hook or (isinstance(node, ast.ImportFrom) and node.names[0].name == "*")


def _only_names(node: ast.stmt, own: Collection[str]) -> bool:
    """Return whether a statement does nothing but give a name to something.

    A class does more where one of this repository is its base, and can notice it; so does whatever runs a call.
    """
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return _are_harmless(node.decorator_list, own) and not _calls(node.args)
    if isinstance(node, ast.ClassDef):
        return _is_unnoticed(node, own)
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return all(isinstance(each, ast.Name) for each in targets) and _is_plain(node.value)
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    is_import = isinstance(node, (ast.Import, ast.ImportFrom))
    return is_import or isinstance(node, ast.Pass) or _is_skipped(node)


def _is_unnoticed(node: ast.ClassDef, own: Collection[str]) -> bool:
    """Return whether nobody of this repository can notice that a class is made."""
    roots = {name for base in node.bases for name in _read_names(base)}
    makes_base = any(isinstance(part, ast.Call) for base in node.bases for part in ast.walk(base))
    if node.keywords or makes_base or roots & set(own) or not _are_harmless(node.decorator_list, own):
        return False
    methods = (ast.FunctionDef, ast.AsyncFunctionDef)
    return all(isinstance(part, methods) or _only_names(part, own) for part in node.body)


def _are_harmless(decorators: Iterable[ast.expr], own: Collection[str]) -> bool:
    """Return whether decorators are well known ones, and none of this repository's that is only called so."""
    for decorator in decorators:
        called = decorator.func if isinstance(decorator, ast.Call) else decorator
        name = called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""
        if name not in _HARMLESS_DECORATORS or _read_names(decorator) & set(own):
            return False
    return True


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


def _is_skipped(node: ast.stmt) -> bool:
    """Return whether this is `if __name__ == "__main__":` or `if TYPE_CHECKING:`, which no import enters."""
    if not isinstance(node, ast.If) or node.orelse:
        return False
    return ast.unparse(node.test) in ("__name__ == '__main__'", "TYPE_CHECKING", "typing.TYPE_CHECKING")


def _bound_names(node: ast.stmt) -> set[str]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {node.name}
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    stored = (each.id for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store))
    return set(stored)


def _read_names(node: ast.AST) -> set[str]:
    """Return the names that a source reads, those in quoted annotations too."""
    names = {each.id for each in ast.walk(node) if isinstance(each, ast.Name) and not isinstance(each.ctx, ast.Store)}
    hints = (getattr(each, field, None) for each in ast.walk(node) for field in ("annotation", "returns"))
    quoted = (part for hint in hints if isinstance(hint, ast.AST) for part in ast.walk(hint))
    texts = (part.value for part in quoted if isinstance(part, ast.Constant) and isinstance(part.value, str))
    return names | {name for text in texts for name in re.findall(r"[^\W\d]\w*", text)}
