"""What a `dvc.yaml` says about parameters and metrics: which files hold them. Pure.

Source: DVC 3, `dvc/schema.py`: `params` and `metrics` at the top level and of each stage, also below `do`.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from nemo_gitexp.jsontext import JsonValue
from nemo_gitexp.yaml12 import parse_yaml

PARAMS = "params.yaml"
LIVE = "dvclive"
"""Where DVCLive writes when nobody says otherwise: `metrics.json`, and a table a metric below `plots/metrics/`."""

TABLE_SUFFIXES = (".tsv", ".csv")


@dataclass(frozen=True, slots=True)
class DeclaredFiles:
    """Files by POSIX path relative to the repository root, in order; they need not exist."""

    params: tuple[str, ...]
    metrics: tuple[str, ...]


def parse_declared(text: bytes, source: str) -> DeclaredFiles:
    """Return what one `dvc.yaml` declares; paths with `${…}`, which only DVC can resolve, are left out.

    Args:
        text: UTF-8 YAML.
        source: where it lies, POSIX, relative to the repository root.

    Raises:
        DocumentError: it is no YAML that can be read.
    """
    document = parse_yaml(text, source)
    base = posixpath.dirname(source)
    if not isinstance(document, Mapping):
        return DeclaredFiles((), ())
    params = [posixpath.join(base, PARAMS), *_joined(base, _listed(document.get("params")))]
    metrics = [*_joined(base, [f"{LIVE}/metrics.json", *_listed(document.get("metrics"))])]
    for stage in _stages(document):
        wdir = stage.get("wdir")
        place = posixpath.join(base, wdir) if isinstance(wdir, str) else base
        params += _joined(place, _param_files(stage.get("params")))
        metrics += _joined(place, _listed(stage.get("metrics")))
    return DeclaredFiles(tuple(dict.fromkeys(params)), tuple(dict.fromkeys(metrics)))


def _stages(document: Mapping[str, JsonValue]) -> Iterator[Mapping[str, JsonValue]]:
    stages = document.get("stages")
    for stage in stages.values() if isinstance(stages, Mapping) else ():
        if isinstance(stage, Mapping):
            body = stage.get("do")
            yield body if isinstance(body, Mapping) else stage


def _listed(value: JsonValue) -> list[str]:
    """Return the paths of a list whose items are paths, or mappings of a path to its options."""
    items = value if isinstance(value, list) else [value]
    found = [[item] if isinstance(item, str) else list(item) if isinstance(item, Mapping) else [] for item in items]
    return [path for paths in found for path in paths]


def _param_files(value: JsonValue) -> list[str]:
    """Return the files of a stage's parameters: a text is a key of params.yaml, a mapping goes by file."""
    items = value if isinstance(value, list) else []
    found = [list(item) if isinstance(item, Mapping) else [PARAMS] for item in items]
    return [path for paths in found for path in paths]


def _joined(base: str, paths: list[str]) -> list[str]:
    joined = (posixpath.normpath(posixpath.join(base, path)) for path in paths if "${" not in path)
    return [path for path in joined if not path.startswith(("/", "../"))]
