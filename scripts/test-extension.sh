#!/usr/bin/env bash
# `cargo pgrx test` on the private PostgreSQL of build/, version PG (15). Arguments go to cargo pgrx test (a test's
# name).
#
# PostgreSQL refuses to run as root, so as root the server runs as the user postgres, out of a data
# folder that this user can reach.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
pg=pg${PG:-15}
export PGRX_HOME=${PGRX_HOME:-$root/build/$pg/pgrx} PATH=$root/build/cargo/bin:$PATH
scratch=$(mktemp -d "${TMPDIR:-/tmp}/rsrepl-pgrx.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
runas=(--pgdata "$scratch/data")
if [ "$(id -u)" = 0 ]; then
    chown postgres "$scratch"
    runas+=(--runas postgres)
fi

cd "$root/extension"
cargo pgrx test "$pg" "$@" --no-default-features "${runas[@]}" </dev/null
