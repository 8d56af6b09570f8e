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

/// The folder with `postgres` and `initdb`, by `RSREPL_PG_CONFIG` or the private copy of setup.
pub fn postgres_bindir() -> PathBuf {
    let pg_config = existing("RSREPL_PG_CONFIG", workspace().join("build/pg_config"));
    let output = Command::new(&pg_config)
        .arg("--bindir")
        .output()
        .unwrap_or_else(|e| panic!("cannot run {}: {e}", pg_config.display()));
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
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
