#!/bin/sh
# Checks that protos/ breaks no caller, with buf, against what callers may have built on:
#   1. BREAKING_AGAINST, a git ref, when it is set;
#   2. where this branch left origin/main;
#   3. on main itself: the last commit, while protos/ has changes that are not committed;
#   4. else the commit before the last one that changed protos/.
# Says plainly when there is nothing to compare with (a first commit, a shallow clone, no git) and is content then. It
# copies the old protos out of git and needs neither a remote nor a registry.
set -eu

buf=${BUF:-buf}
cd "$(dirname "$0")/.."

nothing() {
  echo "buf breaking: nothing to compare with: $1."
  exit 0
}

commit_of() {
  git rev-parse --quiet --verify "$1^{commit}" 2>/dev/null
}

choose() {
  head=$(commit_of HEAD) || return 1
  if main=$(commit_of refs/remotes/origin/main) && base=$(git merge-base "$head" "$main" 2>/dev/null) && [ "$base" != "$head" ]; then
    echo "$base"
  elif [ -n "$(git status --porcelain -- protos)" ]; then
    echo "$head"
  else
    last=$(git log -1 --format=%H -- protos)
    [ -n "$last" ] && commit_of "$last^"
  fi
}

command -v git >/dev/null || nothing "there is no git"
git rev-parse --git-dir >/dev/null || nothing "this is no git checkout that git is willing to read"

if [ -n "${BREAKING_AGAINST:-}" ]; then
  against=$(commit_of "$BREAKING_AGAINST") || {
    echo "buf breaking: BREAKING_AGAINST=$BREAKING_AGAINST names no commit of this checkout."
    exit 1
  }
else
  against=$(choose) || nothing "no earlier commit with protos/ is here"
fi
[ -n "$(git ls-tree "$against" -- protos)" ] || nothing "$(git rev-parse --short "$against") has no protos/"

old=$(mktemp -d)
trap 'rm -rf "$old"' EXIT
git archive "$against" -- protos | tar -xf - -C "$old"
# What is not ours is taken as it is now, so that only protos/ is compared.
cp -R buf.yaml third_party "$old"
if ! "$buf" breaking --against "$old"; then
  echo "buf breaking: protos/ breaks callers of $(git rev-parse --short "$against"). If that is meant, say so in CHANGELOG.md and"
  echo "name the commit to compare with from now on: BREAKING_AGAINST=<ref>."
  exit 1
fi
echo "buf breaking: protos/ keeps what callers of $(git rev-parse --short "$against") rely on."
