//! What must be right before replication can begin, told all at once, each with its mend.

use std::fmt;

/// One thing that is wrong, or that will go wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What is wrong, with the names and values that tell where: one line, no full stop.
    pub what: String,
    /// The statement, setting or step that mends it; empty when there is none.
    pub mend: String,
    pub severity: Severity,
}

/// What a finding means for `check` and for `run`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Works, but not for ever or not for everything.
    Warning,
    /// Does not work now and may pass by itself: a server that is down, a slot still held by a
    /// predecessor. `run` waits or retries.
    Transient,
    /// Does not work until its owner mends it. On the source, `run` does not start; on a target, that
    /// target keeps trying and the others go on.
    Error,
}

impl Severity {
    /// Lower case, as printed by `check`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Severity::Warning => "warning",
            Severity::Transient => "unavailable",
            Severity::Error => "error",
        }
    }
}

impl Finding {
    pub fn error(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Finding { what: what.into(), mend: mend.into(), severity: Severity::Error }
    }

    pub fn transient(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Finding { what: what.into(), mend: mend.into(), severity: Severity::Transient }
    }

    pub fn warning(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Finding { what: what.into(), mend: mend.into(), severity: Severity::Warning }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.severity.as_str(), self.what)?;
        if !self.mend.is_empty() {
            write!(f, "\n    mend: {}", self.mend)?;
        }
        Ok(())
    }
}
