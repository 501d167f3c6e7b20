"""What a person may type for an experiment, in all its forms and in the promised order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from builder import Work, make_work

from nemo_gitexp.errors import AmbiguousExperimentError, UnknownExperimentError
from nemo_gitexp.git.repository import open_repository
from nemo_gitexp.lookup import baseline_tips, find_experiment
from nemo_gitexp.tips import list_tips

STUDY = "purpose: to be found\ncommand: python train.py --lr {config.lr}\nconfig: {lr: 0.1}\n"


@dataclass(frozen=True)
class Place:
    """A repository with four experiments: one completed, one of each study, one on a commit of its own."""

    work: Work
    done: dict
    alpha: dict
    beta: dict
    later: dict


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    base = tmp_path_factory.mktemp("lookup")
    studies = {f"experiments/{name}/experiment.yaml": STUDY for name in ("alpha", "beta")}
    work = make_work(base / "work", base / "home", files=studies)
    record = ("run", "--record-only", "--json")
    done = work.gitexp("run", "--json", "--", "python", "train.py").json
    alpha = work.gitexp(*record, "alpha").json
    beta = work.gitexp(*record, "beta").json
    work.commit("second")
    later = work.gitexp(*record, "alpha", "lr=0.5").json
    work.git("checkout", "-q", "-b", "squashed", "main")
    work.git("merge", "-q", "--squash", alpha["branch"])
    work.git("commit", "-q", "-m", "alpha, squashed")
    work.git("checkout", "-q", "-b", "two-studies")
    work.git("merge", "-q", "--squash", beta["branch"])
    work.git("commit", "-q", "-m", "and beta")
    work.git("checkout", "-q", "-b", "on-top", done["branch"])
    work.commit("work goes on upon an experiment")
    work.git("checkout", "-q", "main")
    return Place(work, done, alpha, beta, later)


SPELLINGS: list[Callable[[dict], str]] = [
    lambda it: it["experiment"],
    lambda it: it["experiment"][:7],
    lambda it: it["experiment"][:12],
    lambda it: it["result"] or it["experiment"],
    lambda it: (it["result"] or it["experiment"])[:7],
    lambda it: it["ref"],
    lambda it: it["ref"].removeprefix("refs/"),
    lambda it: it["branch"],
    lambda it: "refs/heads/" + it["branch"],
    lambda it: "heads/" + it["branch"],
    lambda it: f"{it['study']}/{it['name']}",
    lambda it: it["name"] if it["study"] == "train" else it["ref"],
]


@pytest.mark.parametrize("number", range(len(SPELLINGS)))
def test_every_spelling_finds_it(place: Place, number: int) -> None:
    for wanted in (place.done, place.alpha, place.later):
        found = find_experiment(open_repository(place.work.root), SPELLINGS[number](wanted))
        assert found.record == wanted["experiment"]


def _find(place: Place, text: str) -> str:
    return find_experiment(open_repository(place.work.root), text).record


def test_latest_is_the_newest_of_all_or_of_a_study(place: Place) -> None:
    assert _find(place, "latest") == place.later["experiment"]
    assert _find(place, "latest:train") == place.done["experiment"]
    assert _find(place, "latest:beta") == place.beta["experiment"]
    with pytest.raises(UnknownExperimentError, match="no experiment of the study gamma"):
        _find(place, "latest:gamma")


def test_a_code_commit_of_one_experiment_finds_it(place: Place) -> None:
    assert _find(place, "HEAD") == place.later["experiment"]
    assert _find(place, "main") == place.later["experiment"]
    assert _find(place, place.later["code"]["commit"][:10]) == place.later["experiment"]


def test_a_code_commit_of_several_experiments_lists_them(place: Place) -> None:
    with pytest.raises(AmbiguousExperimentError) as refusal:
        _find(place, "HEAD~1")
    assert refusal.value.facts["candidates"] == sorted(
        f"{it['study']}/{it['name']}" for it in (place.done, place.alpha, place.beta)
    )
    assert "nemo-gitexp show" in refusal.value.hint


def test_a_commit_after_a_squash_merge_finds_it_by_its_tree(place: Place) -> None:
    assert _find(place, "squashed") == place.alpha["experiment"]
    assert _find(place, place.work.git("rev-parse", "squashed")) == place.alpha["experiment"]
    assert _find(place, "on-top") == place.done["experiment"]


def test_a_commit_with_records_of_several_studies_lists_them(place: Place) -> None:
    with pytest.raises(AmbiguousExperimentError) as refusal:
        _find(place, "two-studies")
    assert refusal.value.facts["candidates"] == [f"{it['study']}/{it['name']}" for it in (place.alpha, place.beta)]


def test_in_a_clone_of_the_branches_alone_the_hint_says_how_to_fetch_experiments(place: Place, tmp_path: Path) -> None:
    place.work.git("clone", "-q", str(place.work.root), str(tmp_path / "clone"))
    clone = Work(tmp_path / "clone", place.work.env)
    for text in (f"origin/{place.done['branch']}", place.done["experiment"], "origin/squashed"):
        refused = clone.gitexp("show", text, "--json", code=3).json["error"]
        assert "no ref here" in refused["message"]
        assert "git fetch" in refused["hint"]
    clone.gitexp("init")
    clone.git("fetch", "-q")
    assert clone.gitexp("show", f"origin/{place.done['branch']}", "--json").json["name"] == place.done["name"]


def test_one_name_in_two_studies_is_ambiguous(place: Place) -> None:
    work, name = place.work, place.beta["name"]
    for study in ("one", "two"):
        work.git("update-ref", f"refs/gitexp/{study}/{name}-x", place.beta["experiment"])
    try:
        with pytest.raises(AmbiguousExperimentError):
            _find(place, f"{name}-x")
        assert _find(place, f"one/{name}-x") == place.beta["experiment"]
    finally:
        for study in ("one", "two"):
            work.git("update-ref", "-d", f"refs/gitexp/{study}/{name}-x")


@pytest.mark.parametrize(
    "text",
    [
        *("", "nothing", "deadbeef", "d" * 40, "--output=sprung", "-x", "a..b", "@{-1}", ":/first", "HEAD^{/first}"),
        *("a b", "x\ny", "^main", "*", "refs/gitexp/", "..", "HEAD:train.py", "main^{tree}", "latest:../x", "\udcff"),
    ],
)
def test_what_names_nothing_is_unknown_and_executes_nothing(place: Place, text: str) -> None:
    with pytest.raises(UnknownExperimentError) as refusal:
        _find(place, text)
    assert refusal.value.hint
    assert not (place.work.root / "sprung").exists()


def test_a_typing_error_names_the_nearest(place: Place) -> None:
    with pytest.raises(UnknownExperimentError) as refusal:
        _find(place, place.done["name"][:-1] + "_")
    assert refusal.value.facts["nearest"] == place.done["name"]


def test_the_baseline_is_the_record_in_the_tree_of_head(place: Place) -> None:
    repository = open_repository(place.work.root)
    assert baseline_tips(repository, list_tips(repository)) == []
    place.work.git("checkout", "-q", "two-studies")
    try:
        found = {tip.record for tip in baseline_tips(repository, list_tips(repository))}
    finally:
        place.work.git("checkout", "-q", "main")
    assert found == {place.alpha["experiment"], place.beta["experiment"]}


def test_a_shallow_clone_says_how_to_deepen(place: Place, tmp_path: Path) -> None:
    url = f"file://{place.work.root}"
    place.work.git("clone", "-q", "--depth", "1", url, str(tmp_path / "shallow"))
    shallow = Work(tmp_path / "shallow", place.work.env)
    with pytest.raises(UnknownExperimentError) as refusal:
        find_experiment(open_repository(shallow.root), place.done["experiment"])
    assert "git fetch --unshallow" in refusal.value.hint
    shallow.git("fetch", "-q", "--depth", "1", "origin", "refs/gitexp/*:refs/gitexp/*")
    assert len(shallow.gitexp("log", "--json").json["experiments"]) == 4
    error = shallow.gitexp("show", place.done["name"], "--json", code=3).json["error"]
    assert "git fetch --unshallow" in error["hint"]
    shallow.git("fetch", "-q", "--unshallow")
    assert shallow.gitexp("show", place.done["name"], "--json").json["status"] == "completed"


def test_experiments_of_a_remote_are_found_beside_ones_own(place: Place, tmp_path: Path) -> None:
    place.work.git("clone", "-q", str(place.work.root), str(tmp_path / "clone"))
    clone = Work(tmp_path / "clone", place.work.env)
    clone.gitexp("init")
    clone.git("fetch", "-q")
    assert clone.refs() == {}
    own = clone.gitexp("run", "--record-only", "--json", "--", "python", "train.py", "--lr", "9").json
    listed = {item["experiment"]: item["ref"] for item in clone.gitexp("log", "--json").json["experiments"]}
    assert set(listed) == {it["experiment"] for it in (place.done, place.alpha, place.beta, place.later, own)}
    assert listed[place.done["experiment"]].startswith("refs/gitexp-remotes/origin/gitexp/train/")
    assert find_experiment(open_repository(clone.root), place.done["name"]).sha == place.done["result"]
    assert find_experiment(open_repository(clone.root), f"origin/{place.done['branch']}").sha == place.done["result"]
