#!/usr/bin/env bash
# Peers of `make bench` that a package has: wal2json, into build/'s PostgreSQL. Without it the bench says
# that it is absent, so nothing here is an error.
set -uo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
pg_config=$root/build/pg${PG:-15}/bin/pg_config
library=$("$pg_config" --pkglibdir)/wal2json.so
[ ! -e "$library" ] || exit 0

major=$("$pg_config" --version | sed -E 's/^PostgreSQL ([0-9]+).*/\1/')
packaged=/usr/lib/postgresql/$major/lib/wal2json.so
if [ ! -e "$packaged" ] && command -v apt-get >/dev/null; then
    echo "bench: installing postgresql-$major-wal2json"
    sudo=()
    [ "$(id -u)" = 0 ] || sudo=(sudo --non-interactive)
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends \
        "postgresql-$major-wal2json" </dev/null >/dev/null
fi
# build/'s PostgreSQL is a copy, which looks for libraries in its own folder.
[ ! -e "$packaged" ] || cp "$packaged" "$library"
