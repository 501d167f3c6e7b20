"""`push` and `pull`: experiments, what was learned about them, and their data, together. Data first, then the refs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from nemo_gitexp.belongings import staying_data
from nemo_gitexp.catalog import Site, refresh
from nemo_gitexp.errors import GitexpError, RecordError, RemoteError, SharingError, UnknownExperimentError
from nemo_gitexp.git.objects import find_ref, list_refs
from nemo_gitexp.git.transport import (
    RefUpdate,
    fetch_refs,
    list_remotes,
    push_lfs,
    push_refs,
    remember_pushed,
    require_remote,
)
from nemo_gitexp.lookup import find_experiment
from nemo_gitexp.progress import write_standings
from nemo_gitexp.report.terminal import plural
from nemo_gitexp.sharing import (
    MOVING,
    Course,
    Elsewhere,
    find_course,
    look_elsewhere,
    place_of,
    ref_update,
    refspecs,
    remembered_as,
    unsent_facts,
)
from nemo_gitexp.shipping import Shipment, bring_data, send_data
from nemo_gitexp.store import Experiment, read_experiments_or_faults
from nemo_gitexp.tips import REMOTE_PREFIX, Tip, branch_name, list_remote_tips, list_tips

Say = Callable[[str], None]

_TRIES = 5
_STALE = "stale info"
"""Git's word for a lease that no longer holds: somebody else was faster."""

_RACES = (_STALE, "lock", "already exists", "failed to update ref", "incorrect old value")
"""What git says when two push at once, here or at the remote: it is worth another look."""


@dataclass(frozen=True, slots=True)
class Moved:
    """One experiment that a remote got, or that came from it; `what` is new or result."""

    tip: Tip
    what: Course


@dataclass(frozen=True, slots=True)
class Refused:
    """One experiment that did not go: why, and what to type."""

    tip: Tip
    why: str
    remedy: str


@dataclass(frozen=True, slots=True)
class PushOptions:
    """What goes with the experiments: their data, unless `data` is False; branches for people only on request."""

    data: bool = True
    branches: bool = False


@dataclass(slots=True)
class PushAnswer:
    """What a remote got, and what it did not; `behind` are experiments of which it has a result that is not here."""

    remote: str
    pushed: list[Moved] = field(default_factory=list)
    same: list[Tip] = field(default_factory=list)
    behind: list[Tip] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    branches: list[str] = field(default_factory=list)
    facts: int = 0
    data: list[Shipment] = field(default_factory=list)


@dataclass(slots=True)
class PullAnswer:
    """What came from a remote: experiments, facts, and the data of those in `wanted`."""

    remote: str
    came: list[Moved]
    facts: int
    wanted: list[Tip]
    data: Shipment


def push(site: Site, words: Sequence[str], options: PushOptions, say: Say) -> PushAnswer:
    """Give a remote the experiments named, or all of this clone, with their facts and their data.

    Those that run here are seen there as they stand now. What cannot go whole does not go, and is named; the rest goes.
    A push that was interrupted is resumed by the next.

    Args:
        site: where.
        words: a remote's name, then experiments; without a remote the one that git would take.
        options: what goes with them.
        say: told what takes time.

    Raises:
        RemoteError: no such remote, or it cannot be reached.
        DataRemoteError: the DVC remote cannot be reached or written; then no ref has moved.
        UnknownExperimentError, AmbiguousExperimentError: an experiment that no one name tells.
    """
    remote, named = _split_words(site, words, pushing=True)
    tips = [find_experiment(site.repository, text) for text in named]
    tips, live = refresh(site, tips or list_tips(site.repository, remotes=False))
    try:
        write_standings(site.repository, [tip for tip in tips if tip.record in live], live, datetime.now(UTC))
    except GitexpError as fault:  # a machine where git knows no user still pushes what it has
        say(f"warning: how far the running ones are is not told: {fault.message}")
    return push_tips(site, remote, tips, options, say, are_named=bool(named))


def push_tips(
    site: Site, remote: str, tips: Sequence[Tip], options: PushOptions, say: Say, *, are_named: bool
) -> PushAnswer:
    """Give a remote these experiments; `are_named`: data of those that it has is looked at too, facts of others stay.

    Raises:
        RemoteError, DataRemoteError: as for `push`.
    """
    trip = _Push(site, options, say, PushAnswer(remote), are_named=are_named)
    elsewhere = trip.push_refs(list(dict.fromkeys(tips)))
    trip.push_facts(elsewhere)
    if options.branches:
        trip.push_branches()
    return trip.answer


def require_all_sent(answer: PushAnswer) -> None:
    """Check that everything that was asked for went.

    Raises:
        SharingError: naming what did not, why, and what mends it.
    """
    if not answer.refused:
        return
    named = "\n  ".join(f"{item.tip.record[:12]}  {item.tip.name}: {item.why}" for item in answer.refused)
    count = plural(len(answer.refused), "experiment was", "experiments were")
    raise SharingError(
        f"{count} not pushed to {answer.remote}:\n  {named}",
        hint="; ".join(dict.fromkeys(item.remedy for item in answer.refused if item.remedy)),
        remote=answer.remote,
        refused=[
            {"experiment": item.tip.record, "name": item.tip.name, "why": item.why, "remedy": item.remedy}
            for item in answer.refused
        ],
        pushed=[item.tip.record for item in answer.pushed],
    )


@dataclass(slots=True)
class _Push:
    """One push on its way: what goes, and what has become of it."""

    site: Site
    options: PushOptions
    say: Say
    answer: PushAnswer
    are_named: bool
    whole: set[str] = field(default_factory=set)

    def push_refs(self, tips: list[Tip]) -> Elsewhere:
        """Push data, then refs, looking again as long as others push at the same time; return what was seen last."""
        repository, remote = self.site.repository, self.answer.remote
        rejected: dict[str, str] = {}
        elsewhere = look_elsewhere(repository, remote, tips)
        for _ in range(_TRIES):
            going = self._with_data(self._sorted(tips, elsewhere), elsewhere)
            rejected = push_refs(repository, remote, [ref_update(tip, elsewhere) for tip in going])
            went = [tip for tip in going if place_of(tip) not in rejected]
            self.answer.pushed += [Moved(tip, find_course(tip, elsewhere)) for tip in went]
            remember_pushed(repository, [(remembered_as(place_of(tip), remote), tip.sha) for tip in went])
            tips = [tip for tip in going if place_of(tip) in rejected]
            if not tips:
                return elsewhere
            if not any(word in why for why in rejected.values() for word in _RACES):
                break  # a rule of the remote, which says the same next time
            elsewhere = look_elsewhere(repository, remote, tips)
        reasons = [(tip, rejected[place_of(tip)]) for tip in tips]
        self.answer.refused += [
            Refused(tip, f"{remote} said: {why}", f"git ls-remote {remote}") for tip, why in reasons
        ]
        return elsewhere

    def _sorted(self, tips: Sequence[Tip], elsewhere: Elsewhere) -> list[Tip]:
        """Return what is to be looked at further; the others are settled."""
        left = []
        for tip in tips:
            course = find_course(tip, elsewhere)
            if course in MOVING or (course == "same" and self.are_named):
                left.append(tip)
            elif course == "same":
                self.answer.same.append(tip)
            elif course == "behind":
                self.answer.behind.append(tip)
            else:
                self.answer.refused.append(_collision(tip, course, elsewhere))
        return left

    def _with_data(self, tips: Sequence[Tip], elsewhere: Elsewhere) -> list[Tip]:
        """Send the data of experiments and return those that go: whole, or as they are with --no-data."""
        new = [tip for tip in tips if tip.record not in self.whole]
        read = list(zip(new, read_experiments_or_faults(self.site.repository, new), strict=True))
        self.answer.refused += [
            Refused(tip, item.message, item.hint) for tip, item in read if isinstance(item, RecordError)
        ]
        sound = [item for _, item in read if not isinstance(item, RecordError)]
        gaps = self._send(sound) if self.options.data else {}
        self.answer.refused += [Refused(item.tip, *gaps[item.sha]) for item in sound if item.sha in gaps]
        self.whole |= {item.sha for item in sound if item.sha not in gaps}
        _push_lfs(self.site, self.answer.remote, [item for item in sound if item.sha not in gaps])
        whole = [tip for tip in tips if tip.record in self.whole]
        self.answer.same += [tip for tip in whole if find_course(tip, elsewhere) == "same"]
        return [tip for tip in whole if find_course(tip, elsewhere) != "same"]

    def _send(self, experiments: Sequence[Experiment]) -> dict[str, tuple[str, str]]:
        """Send data; return by record sha why some experiments are not whole, and what mends it."""
        for experiment in experiments:
            for path in staying_data(experiment):
                self.say(f"note: {path} of {experiment.tip.name} is not copied anywhere: it stays where it lies")
        shipment = send_data(self.site, experiments, self.say)
        self.answer.data.append(shipment)
        if shipment.lost:
            self.say(f"note: the log of {plural(len(shipment.lost), 'experiment')} stays here")
        gaps = {}
        for sha, items in shipment.gaps.items():
            named = ", ".join(item.called for item in items[:5])
            gaps[sha] = (f"{named}: {items[0].why}", "; ".join(dict.fromkeys(item.remedy for item in items)))
        return gaps

    def push_facts(self, elsewhere: Elsewhere) -> None:
        """Push what was learned about experiments that the remote has."""
        repository, answer = self.site.repository, self.answer
        records = {tip.record for tip in (*answer.same, *answer.behind, *(item.tip for item in answer.pushed))}
        if not self.are_named:
            records |= {tip.record for tip in list_remote_tips(repository, answer.remote).values()}
        updates = unsent_facts(repository, elsewhere, sorted(records))
        rejected = push_refs(repository, answer.remote, updates)
        others = [why for why in rejected.values() if why != _STALE]  # stale: another push brought the same one
        if others:
            raise RemoteError(
                f"{answer.remote} does not take facts: {others[0]}", hint=f"git ls-remote {answer.remote}"
            )
        remember_pushed(repository, [(remembered_as(item.ref, answer.remote), item.new) for item in updates])
        answer.facts = len(updates) - len(rejected)

    def push_branches(self) -> None:
        """Push the branches for people as they stand here, without force; one that was deleted stands at the tip."""
        repository, answer = self.site.repository, self.answer
        tips = [*answer.same, *(item.tip for item in answer.pushed)]
        refs = {f"refs/heads/{branch_name(tip.study, tip.name)}": tip for tip in tips}
        updates = [RefUpdate(ref, find_ref(repository, ref) or tip.sha, leased=False) for ref, tip in refs.items()]
        rejected = push_refs(repository, answer.remote, updates)
        for ref, why in rejected.items():
            name = ref.removeprefix("refs/heads/")
            answer.refused.append(Refused(refs[ref], f"its branch: {why}", f"git push {answer.remote} {name}"))
        answer.branches = [item.ref.removeprefix("refs/heads/") for item in updates if item.ref not in rejected]


def _push_lfs(site: Site, remote: str, experiments: Sequence[Experiment]) -> None:
    filtered = [(item, item.record.code.filtered) for item in experiments]
    commits = [str(item.sha) for item, found in filtered if found is not None and "lfs" in found.drivers]
    if commits:
        push_lfs(site.repository, remote, commits)


def _collision(tip: Tip, course: Course, elsewhere: Elsewhere) -> Refused:
    remote, place = elsewhere.remote, place_of(tip)
    there = str(elsewhere.refs.get(place))
    if course == "taken":
        why = f"{remote} has another experiment of this name ({there[:12]})"
        return Refused(tip, why, f"git log {remembered_as(place, remote)}")
    why = f"{remote} has another result of it ({there[:12]}, here {tip.sha[:12]})"
    return Refused(
        tip,
        why,
        f"nemo-gitexp pull {remote}; git diff {there[:12]} {tip.sha[:12]}; "
        f"to keep theirs: git update-ref {place} {there[:12]}",
    )


def pull(site: Site, words: Sequence[str], say: Say, *, all_data: bool = False) -> PullAnswer:
    """Fetch a remote's experiments and facts beside our own, and the data of those named, or of all.

    Args:
        site: where.
        words: a remote's name, then experiments whose data are wanted.
        say: told what takes time.
        all_data: the data of every experiment of that remote.

    Raises:
        RemoteError: no such remote, or it cannot be reached.
        DataRemoteError: the DVC remote cannot be reached.
        UnknownExperimentError, AmbiguousExperimentError: an experiment that no one name tells.
    """
    repository = site.repository
    remote, named = _split_words(site, words, pushing=False, is_lenient=True)
    before, facts = list_remote_tips(repository, remote), _count_facts(site, remote)
    fetch_refs(repository, remote, *refspecs(remote))
    now = list_remote_tips(repository, remote)
    came = [Moved(tip, _what_came(before.get(ref), tip)) for ref, tip in now.items() if before.get(ref) != tip]
    wanted = [find_experiment(repository, text) for text in named] or (list(now.values()) if all_data else [])
    read = read_experiments_or_faults(repository, wanted)
    for item in read:
        if isinstance(item, RecordError):
            say(f"warning: {item.message}")
    data = bring_data(site, [item for item in read if not isinstance(item, RecordError)], say) if read else Shipment()
    return PullAnswer(remote, came, _count_facts(site, remote) - facts, wanted, data)


def _what_came(before: Tip | None, now: Tip) -> Course:
    return "new" if before is None or before.record != now.record else "result"


def _count_facts(site: Site, remote: str) -> int:
    return len(list_refs(site.repository, f"{REMOTE_PREFIX}{remote}/facts/", fields=("refname",)))


def _split_words(
    site: Site, words: Sequence[str], *, pushing: bool, is_lenient: bool = False
) -> tuple[str, Sequence[str]]:
    """Return the remote, and the experiments: the first word is a remote if one is called that.

    Raises:
        RemoteError: which remote is meant cannot be told.
        UnknownExperimentError: the first word is neither; not when `is_lenient`, for it may come with the fetch.
    """
    repository, remotes = site.repository, list_remotes(site.repository)
    if words and words[0] in remotes:
        return require_remote(repository, words[0]), words[1:]
    remote = require_remote(repository, None, pushing=pushing)
    if words and not is_lenient:
        try:
            find_experiment(repository, words[0])
        except UnknownExperimentError as fault:
            listed = ", ".join(remotes)
            said = f"{words[0]} is neither an experiment nor a remote; remotes: {listed}"
            raise UnknownExperimentError(said, hint=fault.hint, **fault.facts, remotes=remotes) from fault
    return remote, words
