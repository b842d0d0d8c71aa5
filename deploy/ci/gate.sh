#!/usr/bin/env bash
# Holds a checkpoint against a policy by a Keystep server; README.md beside this file has the variables.
# Ends with the gate's own exit code: 0 passed, 3 rejected, 4 undecided.
set -euo pipefail

for name in KEYSTEP_SERVER KEYSTEP_CHECKPOINT KEYSTEP_BASE KEYSTEP_CONCEPT KEYSTEP_KIND; do
  if [ -z "${!name:-}" ]; then
    echo "gate.sh: $name is not set" >&2
    exit 2
  fi
done
reports="${KEYSTEP_REPORTS:-keystep-gate}"
mkdir -p "$reports"

token=()
if [ -n "${KEYSTEP_TOKEN:-}" ]; then
  folder="$(mktemp -d)"
  trap 'rm -rf "$folder"' EXIT
  (umask 077 && printf '%s\n' "$KEYSTEP_TOKEN" >"$folder/token")
  token=(--token-file "$folder/token")
  unset KEYSTEP_TOKEN
fi

keystep gate --server "$KEYSTEP_SERVER" ${token[@]+"${token[@]}"} \
  --checkpoint="$KEYSTEP_CHECKPOINT" --base="$KEYSTEP_BASE" \
  --concept="$KEYSTEP_CONCEPT" --kind="$KEYSTEP_KIND" \
  --policy "${KEYSTEP_POLICY:-policy.toml}" --overwrite \
  --junit "$reports/gate.xml" --sarif "$reports/gate.sarif" \
  --code-quality "$reports/code-quality.json" --json "$reports/gate.json"
