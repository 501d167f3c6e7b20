"""Which packages this interpreter has: names and versions from the metadata directories, nothing imported.

Also a program: `python environment.py` prints the document of the interpreter that runs it; `--paths` adds its import
paths, for redirecting them. Self-contained, because it runs by path and alone.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable, Mapping

    from .shapes import JsonValue

METADATA_ENDINGS = (".dist-info", ".egg-info")


def environment_document(captured: str, paths: Iterable[str]) -> dict[str, JsonValue]:
    """Return the interpreter and its packages.

    Args:
        captured: "launch" or "job": when this was asked.
        paths: the import paths to look into, normally `sys.path`; of two versions the first one counts.
    """
    interpreter: dict[str, JsonValue] = {
        "implementation": sys.implementation.name,
        "version": sys.version.split()[0],
    }
    packages: dict[str, JsonValue] = {}
    for directory in _distinct(paths):
        for name, version in _packages_below(directory):
            packages.setdefault(name, version)
    return {"schema": 1, "captured": captured, "interpreter": interpreter, "packages": dict(sorted(packages.items()))}


def normalised(name: str) -> str:
    """Return the package name as PEP 503 compares it."""
    words = name.replace("_", "-").replace(".", "-").lower().split("-")
    return "-".join(word for word in words if word)


def loaded_packages(files: Mapping[str, str | None], paths: Iterable[str]) -> dict[str, str]:
    """Return name and version of the installed packages to which loaded modules belong.

    A module belongs to the package of its name; where there is none, to the packages of the same directory whose
    list of files names it.

    Args:
        files: dotted module name to its `__file__`.
        paths: the import paths.
    """
    loaded: dict[str, str] = {}
    for directory in _distinct(paths):
        below = directory.rstrip(os.sep) + os.sep
        modules = {name for name, file in files.items() if file and file.startswith(below)}
        if modules:
            loaded.update(_packages_of(directory, modules))
    return dict(sorted(loaded.items()))


def _packages_of(directory: str, modules: set[str]) -> dict[str, str]:
    metadata = _metadata_directories(directory)
    by_name = {normalised(name): (name, version) for name, version, _ in metadata}
    tops = {name.partition(".")[0] for name in modules}
    found, unmatched = {}, set()
    for top in tops:
        if normalised(top) in by_name and top in modules:
            found[normalised(top)] = by_name[normalised(top)][1]
        else:
            unmatched.add(top)
    if unmatched:
        prefixes = _record_prefixes(unmatched, modules)
        for name, version, path in metadata:
            if normalised(name) not in found and _records_any(path, prefixes):
                found[normalised(name)] = version
    return found


def _record_prefixes(tops: set[str], modules: set[str]) -> list[str]:
    """Return how the files of these modules begin in a RECORD; two levels for namespace packages such as google."""
    prefixes = []
    for name in modules:
        top, _, rest = name.partition(".")
        if top not in tops:
            continue
        if top in modules:
            prefixes += [f"{top}/", f"{top}.py,"] if name == top else []
        elif rest:
            second = rest.partition(".")[0]
            prefixes += [f"{top}/{second}/", f"{top}/{second}."]
    return sorted({f"\n{prefix}" for prefix in prefixes} | {f"\n{top}." for top in tops if top in modules})


def _records_any(metadata: str, prefixes: Iterable[str]) -> bool:
    text = "\n" + (_text(os.path.join(metadata, "RECORD")) or _text(os.path.join(metadata, "SOURCES.txt")))
    return any(prefix in text for prefix in prefixes)


def _packages_below(directory: str) -> list[tuple[str, str]]:
    return [(normalised(name), version + _origin(path)) for name, version, path in _metadata_directories(directory)]


def _metadata_directories(directory: str) -> list[tuple[str, str, str]]:
    """Return (name, version, path) of the metadata in one import directory, sorted."""
    try:
        names = sorted(os.listdir(directory or "."))
    except OSError:
        return []
    found = []
    for entry in names:
        stem, ending = os.path.splitext(entry)
        if ending in METADATA_ENDINGS and not entry.startswith(("~", "-", ".")):
            path = os.path.join(directory, entry)
            name, version = _name_and_version(stem, path)
            if version:
                found.append((name, version, path))
        elif ending == ".egg-link":
            found += _linked(os.path.join(directory, entry))
    return found


def _name_and_version(stem: str, path: str) -> tuple[str, str]:
    """Return both from `name-1.0`, `name-1.0-py3.11`, or from the metadata when the file name lacks the version."""
    name, _, version = stem.partition("-")
    if version and not path.endswith(".egg-info"):
        name, _, version = stem.rpartition("-")
        return name, version
    if version:
        return name, version.partition("-py")[0]
    for line in _text(os.path.join(path, "PKG-INFO")).splitlines():
        if line.startswith("Version:"):
            return name, line[len("Version:") :].strip()
    return name, ""


def _linked(link: str) -> list[tuple[str, str, str]]:
    """Return the package of a setuptools development link."""
    target = _text(link).partition("\n")[0].strip()
    if not os.path.isdir(target):
        return []
    wanted = normalised(os.path.splitext(os.path.basename(link))[0])
    below = [item for item in _metadata_directories(target) if normalised(item[0]) == wanted]
    return [(name, f"{version} (editable)", path) for name, version, path in below[:1]]


def _origin(path: str) -> str:
    """Return " (editable)" or " (git <sha>)" for packages that came from no index, else nothing."""
    direct = os.path.join(path, "direct_url.json")
    if not os.path.exists(direct):
        return ""
    import json

    try:
        document = json.loads(_text(direct))
        if document.get("dir_info", {}).get("editable"):
            return " (editable)"
        commit = document.get("vcs_info", {}).get("commit_id")
    except (ValueError, AttributeError):
        return ""
    return f" (git {commit})" if commit else ""


def _distinct(paths: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(path for path in paths if os.path.isdir(path)))


def _text(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def main() -> None:
    """Print the document of this interpreter as one line of JSON."""
    if not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
        del sys.path[0]  # the directory of this file
    import json

    document = environment_document("job" if "--job" in sys.argv else "launch", sys.path)
    if "--paths" in sys.argv:
        paths: list[JsonValue] = [str(path) for path in sys.path]
        document["import_paths"] = paths
        finders = [module for name, module in sys.modules.items() if name.startswith("__editable__")]
        mappings = [getattr(module, "MAPPING", {}) for module in finders]
        document["editables"] = {str(name): str(path) for each in mappings for name, path in each.items()}
        prefixes: list[JsonValue] = [sys.prefix, sys.exec_prefix, sys.base_prefix]
        document["prefixes"] = prefixes
    print(json.dumps(document, sort_keys=True))


if __name__ == "__main__":
    main()
