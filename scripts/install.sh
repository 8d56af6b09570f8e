#!/usr/bin/env bash
# Builds the extension in release mode and copies it into the PostgreSQL of a pg_config:
#
#   scripts/install.sh /usr/lib/postgresql/15/bin/pg_config
#
# Only files are copied (library, control file, SQL). What to say to the server afterwards is printed.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
pg_config=${1:?usage: install.sh PG_CONFIG}
pg_config=$("$pg_config" --bindir)/pg_config
major=$("$pg_config" --version | sed -E 's/^PostgreSQL ([0-9]+).*/\1/')

# pgrx looks a version up in its folder's config.toml: give it one that knows exactly this server.
PGRX_HOME=$root/build/pgrx-install/$(printf '%s' "$pg_config" | cksum | cut -d' ' -f1)
if grep -qsF "\"$pg_config\"" "$root/build/pg$major/pgrx/config.toml"; then
    PGRX_HOME=$root/build/pg$major/pgrx
elif [ ! -e "$PGRX_HOME/config.toml" ]; then
    mkdir -p "$PGRX_HOME"
    printf '[configs]\npg%s = "%s"\n' "$major" "$pg_config" >"$PGRX_HOME/config.toml"
fi
export PGRX_HOME PATH=$root/build/cargo/bin:$PATH

sudo=()
[ -w "$("$pg_config" --pkglibdir)" ] && [ -w "$("$pg_config" --sharedir)/extension" ] || sudo=(--sudo)

# Backends have the library mapped, and would crash if it were written over: a copy takes its place first.
library=$("$pg_config" --pkglibdir)/rsrepl.so
if [ -e "$library" ]; then
    as=()
    [ ${#sudo[@]} = 0 ] || as=(sudo)
    "${as[@]}" cp -p "$library" "$library.next"
    "${as[@]}" mv -f "$library.next" "$library"
fi

cd "$root/extension"
cargo pgrx install --release "${sudo[@]}" --pg-config "$pg_config" \
    --no-default-features --features "pg$major" </dev/null

[ "${QUIET:-}" ] || cat <<HINT

Installed into $pg_config. In the server, once, as superuser:

    ALTER SYSTEM SET wal_level = logical;   -- and restart, if it is not
    ALTER SYSTEM SET output_plugin_libraries = pgoutput, test_decoding, rsrepl;
                                            -- only where pg_settings knows it; then reload
    CREATE EXTENSION rsrepl;                -- in the database to replicate
HINT
