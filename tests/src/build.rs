//! Where the things under test are: made by `make setup` and `make build`, or named by environment.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The root of the repository.
pub fn workspace() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("tests/ has a parent").to_path_buf()
}

/// The `rsrepl` binary: `RSREPL_BIN`, or the release build.
pub fn sidecar() -> PathBuf {
    let target = match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => workspace().join("target"),
    };
    existing("RSREPL_BIN", target.join("release/rsrepl"))
}

/// The folder with `postgres` and `initdb`: of `RSREPL_PG_CONFIG`, or setup's of the version `PG` (15).
pub fn postgres_bindir() -> PathBuf {
    let version = env::var("PG").unwrap_or_else(|_| "15".to_owned());
    let default = workspace().join(format!("build/pg{version}/bin/pg_config"));
    PathBuf::from(pg_config(&existing("RSREPL_PG_CONFIG", default), "--bindir"))
}

/// The major version of that PostgreSQL.
pub fn postgres_major() -> u32 {
    let version = pg_config(&postgres_bindir().join("pg_config"), "--version");
    let digits = version.trim_start_matches("PostgreSQL ").split(|c: char| !c.is_ascii_digit());
    digits.into_iter().next().and_then(|major| major.parse().ok()).expect("a version")
}

fn pg_config(program: &Path, option: &str) -> String {
    let output = Command::new(program)
        .arg(option)
        .output()
        .unwrap_or_else(|e| panic!("cannot run {}: {e}", program.display()));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// The Python whose environment has chdb-core: `RSREPL_CLICKHOUSE_PYTHON`, or the one of setup.
pub fn clickhouse_python() -> PathBuf {
    let python = workspace().join("build/clickhouse/bin/python");
    existing("RSREPL_CLICKHOUSE_PYTHON", python)
}

fn existing(variable: &str, default: PathBuf) -> PathBuf {
    let path = env::var_os(variable).map_or(default, PathBuf::from);
    assert!(
        path.exists(),
        "{} does not exist: run `make setup build`, or set {variable}",
        path.display()
    );
    path
}
