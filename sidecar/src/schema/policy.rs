//! Which schema changes a target applies by itself.

use std::fmt;

use super::diff::Operation;

/// `schema_changes` of a target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// All of them.
    Apply,
    /// Those that take nothing away and change nothing that readers use.
    #[default]
    Additive,
    /// None: the target waits for its owner.
    Stop,
}

/// What happens with an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Apply,
    /// The rows that come do not need it.
    Ignore,
    /// The rows that come need it, and the target's owner is to do it.
    Ask,
}

impl Policy {
    pub fn verdict(self, operation: &Operation) -> Verdict {
        let [additive, stop] = match operation {
            _ if self == Policy::Apply => return Verdict::Apply,
            Operation::CreateTable | Operation::AddColumn(_) | Operation::DropNotNull(_) => {
                [Verdict::Apply, Verdict::Ask]
            }
            Operation::DropTable
            | Operation::DropColumn(_)
            | Operation::SetNotNull(_)
            | Operation::SetDefault(_) => [Verdict::Ignore, Verdict::Ignore],
            Operation::MoveTable { .. }
            | Operation::RenameColumns(_)
            | Operation::ChangeType(_)
            | Operation::SetGenerated(_) => [Verdict::Ask, Verdict::Ask],
        };
        if self == Policy::Additive { additive } else { stop }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Policy::Apply => "apply",
            Policy::Additive => "additive",
            Policy::Stop => "stop",
        })
    }
}
