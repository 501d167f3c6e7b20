"""What may become of a remote's ref: it moves on, and is never forced over another result."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nemo_gitexp.git.repository import CommitSha
from nemo_gitexp.sharing import Elsewhere, find_course, place_of, ref_update, remembered_as
from nemo_gitexp.tips import Tip

RECORD, OURS, THEIRS, OTHER = (CommitSha(letter * 40) for letter in "abcd")
PLACE = "refs/gitexp/fit/one"
RECORDED = Tip(PLACE, "fit", "one", RECORD, RECORD, None, None, "sha256:0", "42", "2026-01-01T00:00:00Z", None)
DONE = replace(RECORDED, sha=OURS, status="completed")
LOST = replace(RECORDED, sha=OURS, status="lost")


def seen(sha: str | None, **theirs: object) -> Elsewhere:
    """Return a remote that holds one ref, and what we know about it."""
    refs = {} if sha is None else {PLACE: CommitSha(sha)}
    tips = {PLACE: replace(RECORDED, sha=sha, remote="origin", **theirs)} if theirs else {}
    return Elsewhere("origin", refs, tips)


@pytest.mark.parametrize(
    "ours, remote, course",
    [
        (RECORDED, seen(None), "new"),
        (DONE, seen(None), "new"),
        (RECORDED, seen(RECORD), "same"),
        (DONE, seen(OURS, status="completed"), "same"),
        (DONE, seen(RECORD), "result"),
        (LOST, seen(RECORD), "result"),
        (DONE, seen(THEIRS, status="lost"), "result"),
        (LOST, seen(THEIRS, status="lost"), "result"),
        (RECORDED, seen(THEIRS, status="completed"), "behind"),
        (RECORDED, seen(THEIRS, status="lost"), "behind"),
        (LOST, seen(THEIRS, status="completed"), "behind"),
        (DONE, seen(THEIRS, status="completed"), "differs"),
        (DONE, seen(THEIRS, status="failed"), "differs"),
        (DONE, seen(OTHER, record=OTHER), "taken"),
        (DONE, seen(OTHER), "taken"),
        (DONE, Elsewhere("origin", {PLACE: OTHER}, {PLACE: replace(DONE, sha=THEIRS)}), "taken"),
    ],
)
def test_a_ref_moves_from_nothing_to_record_to_result_and_no_other_way(ours: Tip, remote: Elsewhere, course: str):
    assert find_course(ours, remote) == course


def test_an_update_holds_only_while_the_remote_is_as_it_was_seen():
    assert ref_update(DONE, seen(RECORD)).old == RECORD
    assert ref_update(DONE, seen(None)).old is None
    assert all(ref_update(DONE, seen(sha)).leased for sha in (RECORD, None))


def test_a_remotes_copy_goes_to_the_ref_that_it_has_everywhere_and_is_remembered_apart():
    fetched = replace(RECORDED, ref="refs/gitexp-remotes/a/gitexp/fit/one", remote="a")
    assert place_of(fetched) == PLACE
    assert remembered_as(PLACE, "b") == "refs/gitexp-remotes/b/gitexp/fit/one"
    assert remembered_as(f"refs/gitexp-facts/{RECORD}/x", "b") == f"refs/gitexp-remotes/b/facts/{RECORD}/x"
