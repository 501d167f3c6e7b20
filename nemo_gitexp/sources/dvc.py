"""Experiments of DVC, and other commits of a DVC repository: read from git's objects alone, DVC is not asked.

`dvc exp` keeps an experiment as a commit at `refs/exps/<2 hex>/<38 hex>/<name>` (docs/record-format.md has the rest).
"""

from __future__ import annotations

import json
import posixpath
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from nemo_gitexp.data.declared import LIVE, PARAMS, TABLE_SUFFIXES, DeclaredFiles, parse_declared
from nemo_gitexp.data.pins import list_pins, list_stage_deps
from nemo_gitexp.errors import DataError, DocumentError, GitCommandError, ImportSourceError, UnknownRunError
from nemo_gitexp.git.objects import CommitObject, list_many_files, list_refs, read_blobs, read_commits
from nemo_gitexp.git.repository import Repository
from nemo_gitexp.imported import ForeignRun, Skipped, metric_rows
from nemo_gitexp.inputpin import InputPin, is_inside
from nemo_gitexp.jsontext import MAX_DOCUMENT_BYTES, JsonValue, parse_json
from nemo_gitexp.keypath import find_nearest
from nemo_gitexp.metrics import STEP, MetricRow, parse_metrics_file
from nemo_gitexp.yaml12 import parse_yaml

_EXPERIMENT = re.compile(r"refs/exps/[0-9a-f]{2}/[0-9a-f]{38}(?:[0-9a-f]{24})?/(?P<name>.+)")
_TOGETHER = 50
"""So many commits are looked at together: their listings must fit into memory."""

_NO_OUTCOME = "was committed by DVC, which keeps neither start nor outcome: it counts as completed then"


@dataclass(frozen=True, slots=True)
class _Named:
    name: str
    place: str
    sha: str


def read_dvc_runs(repository: Repository, revisions: Sequence[str]) -> tuple[list[ForeignRun], list[Skipped]]:
    """Return the experiments of DVC in this repository, or those that are named.

    Args:
        repository: where.
        revisions: names of experiments, branches, tags, shas; empty: all experiments.

    Raises:
        ImportSourceError: there is none.
        UnknownRunError: a revision that is none here.
    """
    experiments = _experiments(repository)
    named = [_find(repository, text, experiments) for text in revisions] if revisions else experiments
    if not named:
        raise ImportSourceError(
            "this repository holds no experiment of DVC",
            hint="dvc exp pull REMOTE --all-commits, or nemo-gitexp import dvc BRANCH",
            source="refs/exps",
        )
    unique = list({item.sha: item for item in reversed(named)}.values())[::-1]
    runs: list[ForeignRun] = []
    skipped: list[Skipped] = []
    for start in range(0, len(unique), _TOGETHER):
        for found in _read(repository, unique[start : start + _TOGETHER]):
            if isinstance(found, Skipped):
                skipped.append(found)
            else:
                runs.append(found)
    return runs, skipped


def _experiments(repository: Repository) -> list[_Named]:
    rows = list_refs(repository, "refs/exps/", fields=("refname", "objectname", "objecttype"))
    matches = ((_EXPERIMENT.fullmatch(ref), ref, sha) for ref, sha, kind in rows if kind == "commit")
    return [_Named(match["name"], ref, sha) for match, ref, sha in matches if match is not None]


def _find(repository: Repository, text: str, experiments: Sequence[_Named]) -> _Named:
    own = [item for item in experiments if item.name == text]
    if len(own) > 1:
        shas = ", ".join(item.sha[:12] for item in own)
        raise UnknownRunError(f"{len(own)} experiments of DVC are called {text}: {shas}", hint="name one by its sha")
    if own:
        return own[0]
    try:
        sha = repository.find_text("rev-parse", "--verify", "--quiet", "--end-of-options", f"{text}^{{commit}}")
    except GitCommandError:
        sha = None
    if sha is None:
        near = find_nearest(text, [item.name for item in experiments])
        hint = f"did you mean {near}?" if near else "dvc exp list --all-commits; git branch --all"
        raise UnknownRunError(f"no experiment, branch or commit is called {text}", hint=hint, runs=[text])
    called = next((item for item in experiments if item.sha == sha), None)
    return called or _Named(text if not sha.startswith(text) else sha[:12], text, sha)


@dataclass(slots=True)
class _Tree:
    """One commit with the files that matter, by path; `read` gives what was read of them."""

    named: _Named
    commit: CommitObject
    shas: Mapping[str, str]
    blobs: dict[str, bytes | None]

    def read(self, path: str) -> bytes | None:
        return self.blobs.get(self.shas.get(path, ""))


def _read(repository: Repository, named: Sequence[_Named]) -> Iterator[ForeignRun | Skipped]:
    commits = dict(
        zip([item.sha for item in named], read_commits(repository, [item.sha for item in named]), strict=True)
    )
    listings = list_many_files(repository, [commit.tree for commit in commits.values()])
    files = {tree: _files(listing) for tree, listing in listings}
    blobs: dict[str, bytes | None] = {}
    trees = [_Tree(item, commits[item.sha], files[commits[item.sha].tree], blobs) for item in named]
    _fetch(repository, trees, [[path for path in tree.shas if _is_pointer(path)] for tree in trees])
    declared = [_declared(tree) for tree in trees]
    wanted = [
        [] if isinstance(each, Skipped) else _wanted(tree, each) for tree, each in zip(trees, declared, strict=True)
    ]
    _fetch(repository, trees, wanted)
    for tree, each in zip(trees, declared, strict=True):
        yield each if isinstance(each, Skipped) else _run(tree, each)


def _files(listing: bytes) -> dict[str, str]:
    """Return the plain files of a listing, path to blob."""
    lines = (line.partition(b"\t") for line in listing.split(b"\0") if line.startswith(b"100"))
    return {path.decode("utf-8", "surrogateescape"): head.split(b" ")[2].decode() for head, _, path in lines}


def _fetch(repository: Repository, trees: Sequence[_Tree], wanted: Sequence[Sequence[str]]) -> None:
    """Read files of many commits in one process; what they share is read once."""
    pairs = zip(trees, wanted, strict=True)
    shas = {tree.shas[path] for tree, paths in pairs for path in paths if path in tree.shas}
    missing = sorted(shas - trees[0].blobs.keys())
    blobs = read_blobs(repository, missing, limit_bytes=MAX_DOCUMENT_BYTES)
    trees[0].blobs.update(zip(missing, blobs, strict=True))


def _is_pointer(path: str) -> bool:
    return posixpath.basename(path) in ("dvc.yaml", "dvc.lock") or path.endswith(".dvc")


def _declared(tree: _Tree) -> DeclaredFiles | Skipped:
    """Return the files of parameters and metrics in a commit, or why it is none of DVC."""
    definitions = [path for path in tree.shas if posixpath.basename(path) == "dvc.yaml"]
    roots = {posixpath.dirname(posixpath.dirname(path)) for path in tree.shas if _is_config(path)}
    if not definitions and not roots:
        return Skipped(tree.named.name, "its commit has neither a dvc.yaml nor a .dvc directory")
    params = [posixpath.join(root, PARAMS) for root in sorted(roots)]
    metrics = [posixpath.join(root, LIVE, "metrics.json") for root in sorted(roots)]
    for path in definitions:
        try:
            found = parse_declared(tree.read(path) or b"", path)
        except DocumentError as fault:
            return Skipped(tree.named.name, fault.message)
        params += found.params
        metrics += found.metrics
    here = [tuple(path for path in dict.fromkeys(paths) if path in tree.shas) for paths in (params, metrics)]
    if not here[0] and not here[1]:
        return Skipped(tree.named.name, "its commit has neither parameters nor metrics in git")
    return DeclaredFiles(*here)


def _is_scratch(path: str) -> bool:
    """Return whether DVC left a file for itself: `dvc exp save` commits `.dvc/tmp/repro.dat` (DVC 3.67)."""
    return path.startswith(".dvc/tmp/") or "/.dvc/tmp/" in path


def _is_config(path: str) -> bool:
    return path == ".dvc/config" or path.endswith("/.dvc/config")


def _wanted(tree: _Tree, declared: DeclaredFiles) -> list[str]:
    return [*declared.params, *declared.metrics, *_tables(tree, declared)]


def _tables(tree: _Tree, declared: DeclaredFiles) -> dict[str, str]:
    """Return DVCLive's tables, each with the metrics file that they are the history of."""
    places = {f"{posixpath.dirname(path)}/plots/metrics/": path for path in declared.metrics if "/" in path}
    return {
        path: metrics
        for path in tree.shas
        for place, metrics in places.items()
        if path.startswith(place) and path.endswith(TABLE_SUFFIXES)
    }


def _run(tree: _Tree, declared: DeclaredFiles) -> ForeignRun | Skipped:
    remarks = [_NO_OUTCOME]
    try:
        config = _config(tree, declared.params, remarks)
    except DocumentError as fault:
        return Skipped(tree.named.name, fault.message)
    rows, bad_lines = metric_rows(_rows(tree, declared, remarks))
    inputs = _inputs(tree, remarks)
    kept = [path for path in tree.shas if posixpath.basename(path) == "dvc.lock" or _is_scratch(path)]
    seconds = int(tree.commit.author_line.rpartition("> ")[2].split(" ")[0])
    return ForeignRun(
        tool="dvc",
        group="",
        run=tree.named.sha,
        name=tree.named.name,
        source=tree.named.place,
        status="committed",
        outcome="completed",
        config=config,
        rows=rows,
        bad_lines=bad_lines,
        ended=datetime.fromtimestamp(seconds, UTC),
        commit=tree.named.sha,
        remarks=tuple(remarks),
        inputs=tuple(inputs),
        config_files=tuple(sorted({*_wanted(tree, declared), *kept})),
    )


def _config(tree: _Tree, paths: Sequence[str], remarks: list[str]) -> dict[str, object]:
    """Return the parameters: of the first file as they are, of each more below its path."""
    config: dict[str, object] = {}
    is_first = True
    for path in paths:
        if not path.endswith((".yaml", ".yml", ".json", ".toml")):
            remarks.append(f"has parameters in {path}, which only DVC can read: they are left out")
            continue
        document = _document(tree, path)
        if not isinstance(document, Mapping):
            continue
        config = {**document, **config} if is_first else {**config, path: document}
        is_first = False
    return config


def _document(tree: _Tree, path: str) -> object:
    text = tree.read(path) or b""
    if path.endswith(".toml"):
        try:
            return tomllib.loads(text.decode())
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as fault:
            raise DocumentError(f"{path} is no valid TOML: {fault}", source=path) from fault
    return parse_json(text, path) if path.endswith(".json") else parse_yaml(text, path)


def _rows(tree: _Tree, declared: DeclaredFiles, remarks: list[str]) -> Iterator[MetricRow]:
    """Yield the metrics of all files; a name that several files have is led by the file's path."""
    streams: dict[str, list[MetricRow]] = {path: [] for path in declared.metrics}
    for path, metrics in _tables(tree, declared).items():
        place = f"{posixpath.dirname(metrics)}/plots/metrics/"
        name = posixpath.splitext(path.removeprefix(place))[0].replace("/", ".")
        streams[metrics] += _table(tree.read(path) or b"", path, name, remarks)
    for path in declared.metrics:
        streams[path] += _metrics_file(tree, path, remarks)
    names = [{name for row in rows for name in row} - {STEP} for rows in streams.values()]
    shared = {name for place, own in enumerate(names) for other in names[place + 1 :] for name in own & other}
    for path, rows in streams.items():
        for row in rows:
            yield {f"{path}:{name}" if name in shared else name: value for name, value in row.items()}


def _metrics_file(tree: _Tree, path: str, remarks: list[str]) -> Sequence[MetricRow]:
    try:
        if path.endswith(".toml"):
            text = json.dumps(_document(tree, path), default=str).encode()
            return parse_metrics_file(text, ".json")
        return parse_metrics_file(tree.read(path) or b"", posixpath.splitext(path)[1])
    except DocumentError as fault:
        remarks.append(f"has a metrics file that cannot be read: {fault.message} ({path})")
        return ()


def _table(text: bytes, path: str, name: str, remarks: list[str]) -> list[MetricRow]:
    """Return the history in one table of DVCLive: its one column beside step and timestamp."""
    try:
        rows = parse_metrics_file(text, posixpath.splitext(path)[1])
    except DocumentError as fault:
        remarks.append(f"has a history that cannot be read: {fault.message} ({path})")
        return []
    found: list[MetricRow] = []
    for row in rows:
        values: list[JsonValue] = [value for key, value in row.items() if key not in (STEP, "timestamp")]
        if len(values) == 1:
            found.append({STEP: row.get(STEP), name: values[0]})
    return found


def _inputs(tree: _Tree, remarks: list[str]) -> list[InputPin]:
    """Return the data that `.dvc` files pin, as far as a stage depends on it; without stages all of it."""
    pointers = [path for path in tree.shas if path.endswith(".dvc") and posixpath.basename(path) != ".dvc"]
    try:
        pins = [pin for path in sorted(pointers) for pin in list_pins(path, tree.read)]
        used = _used(tree)
    except (DataError, DocumentError) as fault:
        remarks.append(f"has data whose pins cannot be read: {fault.message}")
        return []
    needed = [pin for pin in pins if used is None or any(_touches(pin.path, path) for path in used)]
    outside = ", ".join(pin.path for pin in needed if not is_inside(pin.path))
    if outside:
        remarks.append(f"has data outside of the repository, left out of its inputs: {outside}")
    return [pin for pin in needed if is_inside(pin.path)]


def _used(tree: _Tree) -> set[str] | None:
    locks = [path for path in tree.shas if posixpath.basename(path) == "dvc.lock"]
    used: set[str] = set()
    for lock in locks:
        document = parse_yaml(tree.read(lock) or b"", lock)
        stages = document.get("stages") if isinstance(document, Mapping) else None
        for stage in stages if isinstance(stages, Mapping) else ():
            used.update(list_stage_deps(lock, stage, tree.read))
    return used if locks else None


def _touches(one: str, other: str) -> bool:
    return one == other or one.startswith(f"{other}/") or other.startswith(f"{one}/")
