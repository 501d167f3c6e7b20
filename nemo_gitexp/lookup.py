"""From what a person types to one experiment.

The order is a contract: commit sha (record, result, code, later commit), ref or branch, name, `latest`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from nemo_gitexp.errors import AmbiguousExperimentError, GitCommandError, UnknownExperimentError
from nemo_gitexp.git.objects import find_objects, list_tree
from nemo_gitexp.git.repository import Repository
from nemo_gitexp.store import deepen_hint, read_experiments_or_faults, record_directory
from nemo_gitexp.tips import BRANCH_PREFIX, Tip, list_tips

_HEX = re.compile(r"[0-9a-f]{7,64}")
_RECORD = "/record/experiment.json"
_UNSAFE = re.compile(r"[\x00-\x20:?*\[\\{]|\.\.|^[-^]")


def find_experiment(repository: Repository, text: str, tips: Sequence[Tip] | None = None) -> Tip:
    """Return the one experiment that `text` names.

    Args:
        repository: where to look.
        text: what the user typed (EXP).
        tips: the experiments, if the caller has listed them.

    Raises:
        UnknownExperimentError: nothing has this name.
        AmbiguousExperimentError: several have it; `candidates` lists their names.
    """
    tips = list_tips(repository) if tips is None else tips
    if text == "latest" or text.startswith("latest:"):
        return _latest(tips, text.partition(":")[2])
    for candidates in _by_each_rule(repository, text, tips):
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            names = [f"{tip.study}/{tip.name}" for tip in candidates]
            shown = "\n  ".join(f"{tip.record[:12]}  {name}" for tip, name in zip(candidates, names, strict=True))
            raise AmbiguousExperimentError(
                f"{text} names {len(candidates)} experiments:\n  {shown}",
                hint=f"nemo-gitexp show {candidates[0].record[:12]}",
                candidates=names,
            )
    raise _unknown(repository, text, tips)


def _latest(tips: Sequence[Tip], study: str) -> Tip:
    of_study = [tip for tip in tips if not study or tip.study == study]
    if not of_study:
        what = f"no experiment of the study {study}" if study else "no experiment"
        raise UnknownExperimentError(f"there is {what} yet", hint=f"nemo-gitexp run {study or 'STUDY'}", study=study)
    return max(of_study, key=lambda tip: (tip.created, tip.name))


def _by_each_rule(repository: Repository, text: str, tips: Sequence[Tip]) -> list[list[Tip]]:
    found: list[list[Tip]] = []
    if _HEX.fullmatch(text):
        found.append([tip for tip in tips if tip.record.startswith(text) or tip.sha.startswith(text)])
    found.append([tip for tip in tips if text in _spellings(tip)])
    if any(found):
        return found
    sha = _commit_of(repository, text)
    if sha is not None:
        found.append([tip for tip in tips if sha in (tip.record, tip.sha)])
        if not any(found):
            found.append(_of_code(repository, sha, tips))
            if not any(found):
                found.append(_in_tree(repository, sha, tips))
    return found


def _spellings(tip: Tip) -> tuple[str, ...]:
    path = f"{tip.study}/{tip.name}"
    branch = f"{BRANCH_PREFIX}{path}"
    return (tip.ref, tip.ref.removeprefix("refs/"), path, tip.name, branch, f"refs/heads/{branch}", f"heads/{branch}")


def _commit_of(repository: Repository, text: str) -> str | None:
    if _UNSAFE.search(text):
        return None
    try:
        return repository.find_text("rev-parse", "--verify", "--quiet", "--end-of-options", f"{text}^{{commit}}")
    except GitCommandError:
        return None  # typed by somebody: an ambiguous beginning of a sha, or nothing that git can read


def _of_code(repository: Repository, sha: str, tips: Sequence[Tip]) -> list[Tip]:
    read = zip(tips, read_experiments_or_faults(repository, tips), strict=True)
    return [tip for tip, item in read if not isinstance(item, Exception) and item.record.code.commit == sha]


def _in_tree(repository: Repository, sha: str, tips: Sequence[Tip]) -> list[Tip]:
    """Return the experiments whose record lies in the tree of a commit: found after squash merges and rebases."""
    recorded = _records_in(repository, sha)
    if not recorded:
        return []
    of_study = [(tip, f"{record_directory(tip.study)}/experiment.json") for tip in tips]
    likely = [(tip, path) for tip, path in of_study if path in recorded]
    own = find_objects(repository, [f"{tip.record}:{path}" for tip, path in likely])
    return [tip for (tip, path), blob in zip(likely, own, strict=True) if blob == recorded[path]]


def _records_in(repository: Repository, sha: str) -> dict[str, str]:
    entries = list_tree(repository, sha, "experiments/")
    return {entry.path: entry.sha for entry in entries if entry.path.endswith(_RECORD)}


def _unknown(repository: Repository, text: str, tips: Sequence[Tip]) -> UnknownExperimentError:
    import difflib

    known = {f"latest:{tip.study}": f"latest:{tip.study}" for tip in tips}
    known |= {tip.study: f"latest:{tip.study}" for tip in tips}
    known |= {tip.name: tip.name for tip in tips}
    near = [known[name] for name in difflib.get_close_matches(text, known, n=1)]
    hint = "nemo-gitexp log" + (f"; did you mean {near[0]}?" if near else "")
    sha, unfetched = _commit_of(repository, text), ""
    if sha is not None and _records_in(repository, sha):  # a clone of the branches alone
        unfetched = "; its commit holds a record that has no ref here"
        hint = "nemo-gitexp init, then git fetch: that brings the refs of experiments"
    if repository.shallow:
        hint = f"{deepen_hint(repository)} (this clone is shallow), then the same command again"
    return UnknownExperimentError(
        f"no experiment is called {text}{unfetched}", hint=hint, name=text, nearest=near[0] if near else None
    )


def baseline_tips(repository: Repository, tips: Sequence[Tip]) -> list[Tip]:
    """Return the experiments whose records stand in the tree of HEAD: the baselines of the current branch."""
    head = repository.head()
    return [] if head is None else _in_tree(repository, head, tips)
