//! In which configuration a test runs: every test holds with each, so each run picks some of them.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::sync::OnceLock;
use std::time::SystemTime;

use crate::build;

/// What is on beyond the defaults.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Variant {
    /// Transactions are streamed while they run, all but the smallest.
    pub streaming: bool,
    /// Several writers that have much to do; else one, or the default.
    pub parallel: bool,
}

/// All of them, by name.
const VARIANTS: [(&str, Variant); 4] = [
    ("plain", Variant { streaming: false, parallel: false }),
    ("streaming", Variant { streaming: true, parallel: false }),
    ("parallel", Variant { streaming: false, parallel: true }),
    ("all", Variant { streaming: true, parallel: true }),
];

impl Variant {
    /// Neither.
    pub const PLAIN: Variant = VARIANTS[0].1;

    /// By the environment's `VARIANT`; or else by `SEED`, where tests of different names get different
    /// ones.
    pub fn of_test(name: &str) -> Variant {
        if let Ok(wanted) = std::env::var("VARIANT") {
            let found = VARIANTS.iter().find(|(name, _)| *name == wanted);
            return found
                .unwrap_or_else(|| panic!("VARIANT={wanted} is not one of {VARIANTS:?}"))
                .1;
        }
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        let place = hasher.finish().wrapping_add(seed()) % VARIANTS.len() as u64;
        let (variant, choice) = VARIANTS[place as usize];
        println!("{name}: VARIANT={variant}");
        choice
    }

    /// The same without streaming where the server may leave out rows of transactions in progress, and `check`
    /// warns of it: from 16 on (docs/operations.md).
    pub fn without_loss(self) -> Variant {
        Variant { streaming: self.streaming && build::postgres_major() < 16, ..self }
    }

    /// Lines for the source's `postgresql.conf`.
    pub fn settings(self) -> &'static str {
        if self.streaming { "logical_decoding_work_mem = 64kB" } else { "" }
    }

    /// Lines for the sidecar's `[source]`.
    pub fn source_options(self) -> String {
        format!("streaming = {}", self.streaming)
    }

    /// Lines for its PostgreSQL target.
    pub fn target_options(self) -> &'static str {
        match (self.parallel, self.streaming) {
            // small batches, so that there are some to be written side by side
            (true, _) => "consistency = \"parallel\"\nworkers = 3\nbatch_size = 50",
            (false, true) => "workers = 1",
            (false, false) => "",
        }
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, _) = VARIANTS.iter().find(|(_, v)| v == self).ok_or(fmt::Error)?;
        f.write_str(name)
    }
}

/// The environment's `SEED`, or the clock's: one for the whole process.
pub fn seed() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    *SEED.get_or_init(|| {
        let seed = match std::env::var("SEED") {
            Ok(text) => text.parse().unwrap_or_else(|_| panic!("SEED={text} is not a number")),
            Err(_) => {
                let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
                since.map_or(0, |d| d.as_secs())
            }
        };
        // not captured: it is there also when the run is cut off from outside
        let _ = writeln!(io::stderr(), "tests: SEED={seed}");
        seed
    })
}
