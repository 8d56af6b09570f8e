//! The sidecar's one error type, and the one function that decides what an error means.

use std::error::Error as StdError;
use std::fmt;

use rsrepl_wire::Lsn;

use crate::batch::Position;
use crate::control::letters::time_text;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, in the terms that matter to whoever must react.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The configuration cannot be used.
    Config,
    /// The source or a target cannot be reached, or broke the connection.
    Connection,
    /// The source is not the one that the positions belong to, or has lost what is needed
    /// (invariant 10).
    Identity,
    /// A frame or row that cannot be decoded; the stream starts again from the last confirmed
    /// position.
    Frame,
    /// A server refused a statement.
    Server,
    /// One row cannot be represented in, or is refused by, a target; its policy says stop.
    Row,
    /// Something in a server must be changed by its owner first (a missing table, a wrong column).
    Setup,
    /// The sidecar's own disk is full, or cannot be used.
    Disk,
    /// The sidecar broke its own rules.
    Internal,
}

/// An error for a person: what happened, where, and the way out.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: Kind,
    message: String,
    hint: Option<String>,
    lsn: Option<Lsn>,
    transaction: Option<Position>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// What to do about an error. See [`Error::decision`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Try again after a backoff, from the last applied position.
    Retry,
    /// Stop this target (or the stream, when the source is meant) until its owner acts.
    Stop,
}

impl Error {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Error(Box::new(Inner {
            kind,
            message: message.into(),
            hint: None,
            lsn: None,
            transaction: None,
            source: None,
        }))
    }

    /// What the user can do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Where in the stream.
    #[must_use]
    pub fn at(mut self, lsn: Lsn) -> Self {
        self.0.lsn = Some(lsn);
        self
    }

    /// In which transaction: its end, and its xid and commit time if they are known (no xid is 0). Without an end it
    /// says nothing.
    #[must_use]
    pub fn of(mut self, transaction: Position) -> Self {
        self.0.transaction = Some(transaction).filter(|known| known.lsn != Lsn::INVALID);
        self
    }

    /// The same, of a transaction of which its end is known.
    #[must_use]
    pub fn of_end(self, lsn: Lsn) -> Self {
        self.of(Position { lsn, ..Position::default() })
    }

    /// It happened with these transactions: completes what is known of the one that it is of, which the only one
    /// is for certain.
    #[must_use]
    pub fn among(mut self, transactions: &[Position]) -> Self {
        let known = match (self.0.transaction, transactions) {
            (Some(known), _) => transactions.iter().find(|one| one.lsn == known.lsn),
            (None, [only]) => Some(only),
            (None, _) => None,
        };
        self.0.transaction = known.copied().or(self.0.transaction);
        self
    }

    /// Keeps the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// Message, position and causes, without what the user can do.
    pub fn what(&self) -> String {
        let mut text = self.0.message.clone();
        if let Some(lsn) = self.0.lsn {
            text.push_str(&format!(" (at LSN {lsn})"));
        }
        if let Some(Position { lsn, commit_time, xid }) = self.0.transaction {
            text.push_str(&format!(" in the transaction that ends at {lsn}"));
            if xid != 0 {
                text.push_str(&format!(" (xid {xid}, committed {})", time_text(commit_time)));
            }
        }
        let mut cause = self.source();
        while let Some(error) = cause {
            text.push_str(&format!(": {error}"));
            // one of ours has said its causes itself
            cause = if error.is::<Error>() { None } else { error.source() };
        }
        text
    }

    /// What the user can do, if that is known.
    pub fn advice(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    pub fn lsn(&self) -> Option<Lsn> {
        self.0.lsn
    }

    /// Of the change that failed, or one of its transaction's.
    pub fn transaction(&self) -> Option<Position> {
        self.0.transaction
    }

    /// Invariant 12: an unknown error is retried; permanent is what is proven permanent. Nothing else
    /// in the sidecar decides this.
    pub fn decision(&self) -> Decision {
        match self.0.kind {
            Kind::Config | Kind::Identity | Kind::Row => Decision::Stop,
            Kind::Connection
            | Kind::Frame
            | Kind::Server
            | Kind::Setup
            | Kind::Disk
            | Kind::Internal => Decision::Retry,
        }
    }
}

impl fmt::Display for Error {
    /// One line: message, position, cause chain, hint. Passwords never get here: connection strings
    /// are not part of any message.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what())?;
        if let Some(hint) = &self.0.hint {
            write!(f, "; {hint}")?;
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

impl From<rsrepl_wire::DecodeError> for Error {
    fn from(error: rsrepl_wire::DecodeError) -> Self {
        Error::new(Kind::Frame, "cannot decode the change stream").because(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_is_said_once() {
        let refused = std::io::Error::other("refused");
        let inner =
            Error::new(Kind::Connection, "cannot connect").because(refused).hint("start it");
        let outer = Error::new(Kind::Connection, "target a").because(inner).at(Lsn(16));
        assert_eq!(outer.to_string(), "target a (at LSN 0/10): cannot connect: refused; start it");
    }

    #[test]
    fn a_transaction_is_named_by_what_skips_it() {
        let at = |lsn, xid| Position { lsn: Lsn(lsn), commit_time: 0, xid };
        let error = || Error::new(Kind::Row, "no").at(Lsn(16));
        let others = [at(32, 7), at(48, 8)];
        assert_eq!(error().among(&others).transaction(), None);
        assert_eq!(error().among(&others[..1]).transaction(), Some(others[0]));
        let named = error().of_end(Lsn(48)).among(&others);
        assert_eq!(
            named.to_string(),
            "no (at LSN 0/10) in the transaction that ends at 0/30 (xid 8, committed 2000-01-01 00:00:00+00)"
        );
        assert_eq!(error().of_end(Lsn(64)).among(&others).transaction(), Some(at(64, 0)));
    }

    /// Invariant 12.
    #[test]
    fn only_what_is_proven_permanent_stops() {
        for kind in [Kind::Config, Kind::Identity, Kind::Row] {
            assert_eq!(Error::new(kind, "").decision(), Decision::Stop, "{kind:?}");
        }
        for kind in
            [Kind::Connection, Kind::Frame, Kind::Server, Kind::Setup, Kind::Disk, Kind::Internal]
        {
            assert_eq!(Error::new(kind, "").decision(), Decision::Retry, "{kind:?}");
        }
    }
}
