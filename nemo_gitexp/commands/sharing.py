"""`push` and `pull`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from nemo_gitexp.commands.call import CALL, EXIT_NO
from nemo_gitexp.commands.options import complete_experiments
from nemo_gitexp.documents import SCHEMA

if TYPE_CHECKING:
    from nemo_gitexp.shipping import Shipment
    from nemo_gitexp.tips import Tip

Shared = Annotated[
    list[str] | None,
    typer.Argument(metavar="[REMOTE] [EXP…]", autocompletion=complete_experiments, help="a remote, then experiments"),
]


def push(
    words: Shared = None,
    *,
    branch: Annotated[bool, typer.Option("--branch", help="their branches for people too")] = False,
    no_data: Annotated[bool, typer.Option("--no-data", help="leave data, outputs and logs here")] = False,
) -> None:
    """Give a remote experiments, what was learned about them, and their data: all of this clone, or those named."""
    from nemo_gitexp.report.share import pushed_lines, render_shared
    from nemo_gitexp.verbs.share import PushOptions, require_all_sent
    from nemo_gitexp.verbs.share import push as verb

    options = PushOptions(data=not no_data, branches=branch)
    answer = verb(CALL.site(), words or [], options, CALL.console.say)
    rows, data = [_shared_row(item.tip, item.what) for item in answer.pushed], _shipped(answer.data)
    lines = pushed_lines(
        answer.remote,
        moved=len(rows),
        same=len(answer.same),
        behind=len(answer.behind),
        facts=answer.facts,
        data=data,
        branches=answer.branches,
    )
    text = render_shared(rows, [] if answer.refused and not rows else lines, style=CALL.console.style)
    if answer.refused and CALL.console.json:
        require_all_sent(answer)
    document = {
        "schema": SCHEMA,
        "remote": answer.remote,
        "pushed": rows,
        "same": [tip.record for tip in answer.same],
        "behind": [tip.record for tip in answer.behind],
        "facts": answer.facts,
        "branches": answer.branches,
        "data": data,
    }
    CALL.console.answer(text, document)
    require_all_sent(answer)


def pull(
    words: Shared = None,
    *,
    all_data: Annotated[bool, typer.Option("--data", help="the data of all its experiments")] = False,
) -> None:
    """Fetch a remote's experiments and facts beside one's own, and the data of those named."""
    from nemo_gitexp.report.share import pulled_lines, render_shared
    from nemo_gitexp.verbs.share import pull as verb

    answer = verb(CALL.site(), words or [], CALL.console.say, all_data=all_data)
    rows, data = [_shared_row(item.tip, item.what) for item in answer.came], _shipped([answer.data])
    missing = {sha: [f"{gap.called}: {gap.why}" for gap in gaps] for sha, gaps in answer.data.gaps.items()}
    lines = pulled_lines(answer.remote, came=len(rows), facts=answer.facts, data=data)
    lines += [f"{sha[:12]} is not whole here: {'; '.join(named[:5])}" for sha, named in missing.items()]
    document = {
        "schema": SCHEMA,
        "remote": answer.remote,
        "experiments": rows,
        "facts": answer.facts,
        "data": data,
        "missing": missing,
    }
    CALL.console.answer(render_shared(rows, lines, style=CALL.console.style), document)
    CALL.exit_code = EXIT_NO if missing else 0


def _shared_row(tip: Tip, what: str) -> dict[str, str]:
    status = tip.status or "unfinished"
    return {"experiment": tip.record, "study": tip.study, "name": tip.name, "what": what, "status": status}


def _shipped(shipments: Sequence[Shipment]) -> dict[str, object]:
    """Return what data travelled, over all rounds."""
    return {
        "objects": sum(item.objects for item in shipments),
        "size_bytes": sum(item.size_bytes for item in shipments),
        "remotes": list(dict.fromkeys(name for item in shipments for name in item.remotes)),
    }
