//! The description of a table.

use std::collections::HashSet;
use std::fmt;

use rsrepl_wire::{Relation, ReplicaIdentity};
use serde::{Deserialize, Serialize};

use super::types;

/// Columns of a table: PostgreSQL's `MaxHeapAttributeNumber`.
const COLUMNS_MAX: usize = 1600;

/// Bytes of a name: PostgreSQL's are under 64, in an encoding that may be shorter than UTF-8.
const NAME_MAX: usize = 1024;

/// Bytes of a type's name, with its schema and modifier.
const TYPE_MAX: usize = 4096;

/// A table as the source has it at one point of the stream. Its JSON is that of the event trigger's
/// messages, and of what targets record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// `pg_class.oid` on the source.
    pub oid: u32,
    pub schema: String,
    pub name: String,
    /// `pg_class.relkind`: `r` or `p`.
    #[serde(default = "plain")]
    pub kind: char,
    /// `pg_class.relreplident`.
    #[serde(default = "default_identity")]
    pub replica_identity: char,
    /// Names of its columns.
    #[serde(default)]
    pub primary_key: Vec<String>,
    /// Rows come under its name: not those of a partition that go by the table above it, or the other way.
    #[serde(default = "yes")]
    pub rows: bool,
    /// In attribute order.
    pub columns: Vec<Column>,
}

/// One column of a [`Table`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// `pg_attribute.attnum`: stays when the column is renamed, and is never given again.
    pub number: u16,
    pub name: String,
    /// As `format_type` writes it, with its modifier, qualified unless it is in `pg_catalog`.
    #[serde(rename = "type")]
    pub type_name: String,
    #[serde(default)]
    pub not_null: bool,
    /// The expression; of a generated column, what it is generated from.
    #[serde(default)]
    pub default: Option<String>,
    /// What rows have that were there before the column (`attmissingval`), in text form.
    #[serde(default)]
    pub missing: Option<String>,
    #[serde(default)]
    pub generated: Generated,
    #[serde(default)]
    pub identity: Identity,
    /// As SQL, if it is not the type's own.
    #[serde(default)]
    pub collation: Option<String>,
    /// From a RELATION message: what is behind the type above is not known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
}

/// `pg_attribute.attgenerated`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Generated {
    #[default]
    #[serde(rename = "")]
    No,
    #[serde(rename = "s")]
    Stored,
    /// Has no value in any row, and so is in no stream.
    #[serde(rename = "v")]
    Virtual,
}

/// `pg_attribute.attidentity`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Identity {
    #[default]
    #[serde(rename = "")]
    No,
    #[serde(rename = "a")]
    Always,
    #[serde(rename = "d")]
    ByDefault,
}

fn yes() -> bool {
    true
}

fn plain() -> char {
    'r'
}

fn default_identity() -> char {
    'd'
}

impl Table {
    /// What a RELATION message says, which knows nothing of defaults.
    pub fn of_relation(relation: &Relation) -> Table {
        let column = |column: &rsrepl_wire::Column| Column {
            number: column.number,
            name: column.name.clone(),
            type_name: types::format_type(column),
            not_null: column.not_null,
            generated: if column.generated { Generated::Stored } else { Generated::No },
            partial: true,
            ..Column::default()
        };
        let keys = relation.columns.iter().filter(|column| column.key);
        let primary = match relation.replica_identity {
            ReplicaIdentity::Default | ReplicaIdentity::Full => {
                keys.map(|c| c.name.clone()).collect()
            }
            ReplicaIdentity::Nothing | ReplicaIdentity::Index => Vec::new(),
        };
        Table {
            oid: relation.oid,
            schema: relation.schema.clone(),
            name: relation.name.clone(),
            kind: 'r',
            replica_identity: char::from(relation.replica_identity.to_byte()),
            primary_key: primary,
            rows: true,
            columns: relation.columns.iter().map(column).collect(),
        }
    }

    /// This description, by a RELATION message, with what only the event trigger knows from an older one.
    #[must_use]
    pub fn completed_by(mut self, older: &Table) -> Table {
        self.kind = older.kind;
        for column in &mut self.columns {
            let Some(known) = older.column(column.number) else { continue };
            let (name, not_null) = (column.name.clone(), column.not_null);
            let same = types::may_be_same(&known.type_name, &column.type_name);
            let shown = if same { &known.type_name } else { &column.type_name };
            *column = Column { name, not_null, type_name: shown.clone(), ..known.clone() };
        }
        if self.replica_identity == 'i' || self.replica_identity == 'n' {
            self.primary_key.clone_from(&older.primary_key);
        }
        self
    }

    pub fn column(&self, number: u16) -> Option<&Column> {
        self.columns.iter().find(|column| column.number == number)
    }

    /// Within all limits, and without two columns of one name or number.
    ///
    /// # Errors
    /// What is wrong.
    pub(super) fn validate(&self) -> Result<(), &'static str> {
        let name = |name: &str| (1..=NAME_MAX).contains(&name.len()) && !name.contains('\0');
        if self.oid == 0 || !name(&self.schema) || !name(&self.name) {
            return Err("a table without oid or name");
        }
        if self.columns.len() > COLUMNS_MAX || self.primary_key.len() > self.columns.len() {
            return Err("too many columns");
        }
        let (mut names, mut numbers) = (HashSet::new(), HashSet::new());
        for column in &self.columns {
            if !name(&column.name) || !(1..=COLUMNS_MAX).contains(&usize::from(column.number)) {
                return Err("a column without name or number");
            }
            if !(1..=TYPE_MAX).contains(&column.type_name.len()) {
                return Err("a column without a type");
            }
            let texts = [Some(&column.type_name), column.default.as_ref(), column.missing.as_ref()];
            let texts = texts.into_iter().chain([column.collation.as_ref()]).flatten();
            if texts.into_iter().any(|text| text.contains('\0')) {
                return Err("a text with a NUL");
            }
            if !names.insert(&column.name) || !numbers.insert(column.number) {
                return Err("two columns with one name or number");
            }
        }
        Ok(())
    }

    /// Reads what [`Table::to_json`] wrote.
    ///
    /// # Errors
    /// What is wrong.
    pub fn from_json(text: &str) -> Result<Table, String> {
        let table: Table = serde_json::from_str(text).map_err(|error| error.to_string())?;
        table.validate()?;
        Ok(table)
    }

    pub fn to_json(&self) -> String {
        // names and texts alone: it cannot fail
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl fmt::Display for Table {
    /// `schema.name`, for messages to people; not quoted for SQL.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}
