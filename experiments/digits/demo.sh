#!/usr/bin/env bash
# Five commands, shown as you would type them. Started by `make demo`, which puts nemo-gitexp on the PATH.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# Experiments are commits, and commits have authors. Borrowed for this demo only where git knows none.
git config user.name >/dev/null || export \
    GIT_AUTHOR_NAME="${GIT_AUTHOR_NAME:-nemo-gitexp demo}" GIT_COMMITTER_NAME="${GIT_COMMITTER_NAME:-nemo-gitexp demo}"
git config user.email >/dev/null || export \
    GIT_AUTHOR_EMAIL="${GIT_AUTHOR_EMAIL:-demo@example.org}" GIT_COMMITTER_EMAIL="${GIT_COMMITTER_EMAIL:-demo@example.org}"

bold="" plain=""
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\e[1m' plain=$'\e[0m'; fi

show() {
    printf '\n%s$ %s%s\n' "$bold" "$*" "$plain"
    "$@"
}

# A finished experiment is recognised and not run again; from the second demo on we ask for the job all the same.
again=()
if [ -n "$(git for-each-ref --count=1 refs/gitexp/digits)" ]; then again=(--again); fi

show nemo-gitexp run digits ${again[@]+"${again[@]}"}
show nemo-gitexp run digits lr=0.05 ${again[@]+"${again[@]}"}
show nemo-gitexp log

# The short shas of the two experiments, the older one first: what you would copy from the table above.
shas=$(nemo-gitexp log --study digits -n 2 --json |
    python -c 'import json, sys; print(*(e["experiment"][:10] for e in reversed(json.load(sys.stdin)["experiments"])))')
read -r first second <<<"$shas"
show nemo-gitexp diff "$first" "$second"
show nemo-gitexp reproduce latest --require bitwise
