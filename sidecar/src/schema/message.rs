//! The message that the source's event trigger emits for each table that a command changed.

use serde::Deserialize;

use super::table::{Generated, Table};
use crate::error::{Error, Kind, Result};

/// Prefix of the logical messages that are read here.
pub const PREFIX: &str = "rsrepl.schema";

/// The version that is understood.
const VERSION: u32 = 1;

/// Bytes of a message: a table of 1600 columns with long defaults has a fraction of that.
const MESSAGE_MAX: usize = 16 << 20;

/// What happened to one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The command's tag, such as `ALTER TABLE`.
    pub command: String,
    pub what: What,
    /// The table is being written anew: its rows follow, as INSERTs.
    pub rewrite: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// It looks like this now.
    Is(Table),
    /// It is gone; nothing but oid and names.
    Dropped(Table),
}

#[derive(Deserialize)]
struct Raw {
    version: u32,
    #[serde(default)]
    command: String,
    table: Option<Table>,
    dropped: Option<Dropped>,
    #[serde(default)]
    rewrite: bool,
}

#[derive(Deserialize)]
struct Dropped {
    oid: u32,
    schema: String,
    name: String,
}

impl Message {
    /// # Errors
    /// [`Kind::Setup`]: it cannot be read, or is of a version that this sidecar does not know.
    pub fn parse(content: &[u8]) -> Result<Message> {
        let refuse = |why: String| {
            let what = format!("a message {PREFIX} cannot be read: {why}");
            Error::new(Kind::Setup, what).hint("upgrade sidecar and extension to the same version")
        };
        if content.len() > MESSAGE_MAX {
            return Err(refuse(format!("it has {} bytes", content.len())));
        }
        let raw: Raw =
            serde_json::from_slice(content).map_err(|error| refuse(error.to_string()))?;
        if raw.version != VERSION {
            return Err(refuse(format!("its version is {}", raw.version)));
        }
        let what = match (raw.table, raw.dropped) {
            (Some(table), None) => What::Is(table),
            (None, Some(Dropped { oid, schema, name })) => {
                What::Dropped(Table { oid, schema, name, ..Table::default() })
            }
            _ => return Err(refuse("it has not one table".to_owned())),
        };
        let mut message = Message { command: raw.command, what, rewrite: raw.rewrite };
        if let What::Is(table) = &mut message.what {
            table.columns.retain(|column| column.generated != Generated::Virtual);
        }
        message.table().validate().map_err(|why| refuse(why.to_owned()))?;
        Ok(message)
    }

    /// As it is or, of a dropped one, was called.
    pub fn table(&self) -> &Table {
        match &self.what {
            What::Is(table) | What::Dropped(table) => table,
        }
    }
}
