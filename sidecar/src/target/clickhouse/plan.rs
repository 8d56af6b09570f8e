//! What a source table becomes: the type and codec of each column, the layout of the table.
//! Resolved once per relation; rows only follow it.

use std::sync::Arc;

use rsrepl_wire::text;
use rsrepl_wire::text::array::Array;
use rsrepl_wire::{Column, Encoding, Relation, Value};

use super::choose::{Choice, choose};
use super::convert::{Codec, DateRange, Refusal, Source, wrong_length};
use super::history::{self, OldColumn};
use super::policy::{ChosenType, Policies, Unrepresentable};
use super::sink::Sink;
use super::types::{ColumnType, Scalar};
use super::version::Version;
use crate::error::{Error, Kind, Result};

/// Names of our own columns and tables begin so.
pub(super) const OWN_PREFIX: &str = "_rsrepl_";

/// How the rows of a table are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// One row per key, the newest version wins.
    Keyed,
    /// The source table has no key: a log of rows that came (+1) and went (-1), and a view of the
    /// rows that are there.
    Log,
    /// Every change, see `history`.
    History,
}

/// One column of the target table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ColumnPlan {
    pub(super) name: String,
    pub(super) ty: ColumnType,
    /// Of the values, or of the elements of an array.
    codec: Codec,
    /// The type of an array's elements, and how they come.
    element: Option<(Encoding, text::Type)>,
    pub(super) policy: Unrepresentable,
    /// The user has chosen the type.
    pub(super) chosen: bool,
    pub(super) key: bool,
}

/// A source table and what it becomes.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// The target's name as configured; errors say it.
    pub(super) target: Arc<str>,
    pub(super) relation: Arc<Relation>,
    /// The table, or the view of a log, that users read.
    pub(super) name: String,
    pub(super) layout: Layout,
    /// As many as the relation has, in its order.
    pub(super) columns: Vec<ColumnPlan>,
    /// In a history: those that tell rows apart.
    pub(super) old_columns: Vec<OldColumn>,
}

impl Plan {
    /// # Errors
    /// [`Kind::Setup`]: a column has a name of ours, or is to have a type that cannot hold its values.
    pub(super) fn new(
        target: &str,
        relation: &Arc<Relation>,
        name: String,
        policies: &Policies,
        dates: DateRange,
    ) -> Result<Self> {
        if let Some(column) = relation.columns.iter().find(|c| c.name.starts_with(OWN_PREFIX)) {
            return Err(Error::new(
                Kind::Setup,
                format!(
                    "target {target}: column {} of table {relation} has a name that is ours",
                    column.name
                ),
            )
            .hint("rename the column on the source, or leave it out of the publication"));
        }
        let column = |column: &Column| {
            let (policy, chosen) = policies.of(&relation.schema, &relation.name, &column.name);
            ColumnPlan::new(column, policy, chosen, dates).map_err(|possible| {
                let wanted = chosen.map(|chosen| chosen.0.to_string()).unwrap_or_default();
                let name = format!("{relation}.{}", column.name);
                Error::new(
                    Kind::Setup,
                    format!(
                        "target {target}: {wanted} cannot hold the values of {name}, which is {}",
                        column.type_name
                    ),
                )
                .hint(format!("possible in columns = {{ {name:?} = {{ type = … }} }}: {possible}"))
            })
        };
        let columns: Vec<_> = relation.columns.iter().map(column).collect::<Result<_>>()?;
        let keyed = columns.iter().any(|column| column.key);
        let layout = if keyed { Layout::Keyed } else { Layout::Log };
        Ok(Plan {
            target: target.into(),
            relation: Arc::clone(relation),
            name,
            layout,
            columns,
            old_columns: Vec::new(),
        })
    }

    /// The table that rows are written to.
    pub(super) fn storage(&self) -> String {
        match self.layout {
            Layout::Keyed | Layout::History => self.name.clone(),
            Layout::Log => format!("{OWN_PREFIX}log_{}", self.name),
        }
    }

    /// Our columns, behind the source's.
    pub(super) fn own_columns(&self) -> &'static [(&'static str, ColumnType)] {
        const KEYED: &[(&str, ColumnType)] = &[
            ("_rsrepl_version", Version::TYPE),
            ("_rsrepl_deleted", ColumnType::Plain(Scalar::UInt8)),
        ];
        const LOG: &[(&str, ColumnType)] = &[
            ("_rsrepl_version", Version::TYPE),
            ("_rsrepl_sign", ColumnType::Plain(Scalar::Int8)),
        ];
        match self.layout {
            Layout::Keyed => KEYED,
            Layout::Log => LOG,
            Layout::History => history::OWN,
        }
    }

    /// All columns that are written, in the order that the encoder has them.
    pub(super) fn written_columns(&self) -> impl Iterator<Item = (&str, ColumnType)> {
        let theirs = self.columns.iter().map(|column| (column.name.as_str(), column.ty.clone()));
        let olds = self
            .old_columns
            .iter()
            .filter_map(|old| Some((old.name.as_str(), self.columns.get(old.index)?.ty.clone())));
        theirs.chain(self.own_columns().iter().cloned()).chain(olds)
    }

    /// Some of its columns are of ClickHouse's type JSON.
    pub(super) fn has_json(&self) -> bool {
        let is_json = |ty: &ColumnType| {
            matches!(ty, ColumnType::Plain(Scalar::Json) | ColumnType::Nullable(Scalar::Json))
        };
        self.columns.iter().any(|column| is_json(&column.ty))
    }

    /// What the rows of the table are sorted and told apart by.
    pub(super) fn sorting_key(&self) -> Vec<&str> {
        match self.layout {
            Layout::Keyed => {
                self.columns.iter().filter(|c| c.key).map(|c| c.name.as_str()).collect()
            }
            Layout::History => vec!["_rsrepl_version"],
            Layout::Log => self.own_columns().iter().map(|(name, _)| *name).collect(),
        }
    }
}

impl ColumnPlan {
    /// # Errors
    /// The types that are possible, when the chosen one is not.
    fn new(
        column: &Column,
        policy: Unrepresentable,
        chosen: Option<&ChosenType>,
        dates: DateRange,
    ) -> std::result::Result<Self, String> {
        // a key cannot be NULL
        let policy = match policy {
            Unrepresentable::Null if column.key => Unrepresentable::Error,
            policy => policy,
        };
        let Choice { ty, codec, element } =
            choose(column, policy, chosen.map(|chosen| &chosen.0), dates)?;
        let nullable = !column.key
            && (!column.not_null || codec.is_partial() && policy == Unrepresentable::Null);
        let ty = match ty {
            ColumnType::Plain(scalar) if nullable => ColumnType::Nullable(scalar),
            ColumnType::Nullable(scalar) if column.key => ColumnType::Plain(scalar),
            ColumnType::Point(false) if nullable => ColumnType::Point(true),
            ty => ty,
        };
        let (name, key, chosen) = (column.name.clone(), column.key, chosen.is_some());
        Ok(ColumnPlan { name, ty, codec, element, policy, chosen, key })
    }

    /// Writes a value, or what the policy puts in its place.
    ///
    /// # Errors
    /// `value` is refused; `to` then holds an unknown part of it.
    #[inline]
    pub(super) fn put(
        &self,
        to: &mut impl Sink,
        column: &Column,
        value: Value<'_>,
    ) -> Result<(), Refusal> {
        if self.policy != Unrepresentable::Null {
            return self.put_exactly(to, column, value);
        }
        let start = to.mark();
        match self.put_exactly(to, column, value) {
            Err(Refusal::Unrepresentable(_)) => {
                to.rewind(start);
                self.ty.put_default(to);
                Ok(())
            }
            result => result,
        }
    }

    #[inline]
    fn put_exactly(
        &self,
        to: &mut impl Sink,
        column: &Column,
        value: Value<'_>,
    ) -> Result<(), Refusal> {
        let source = Source::Column(column);
        match (&self.ty, value) {
            (_, Value::Unchanged) => Err(Refusal::Absent),
            (ColumnType::Plain(_), Value::Data(data)) => {
                self.codec.put(to.value(false), source, data)
            }
            (ColumnType::Nullable(_), Value::Data(data)) => {
                self.codec.put(to.value(true), source, data)
            }
            (ColumnType::Nullable(scalar), Value::Null) => {
                to.null(scalar);
                Ok(())
            }
            (ColumnType::Array(scalar) | ColumnType::Matrix(scalar), Value::Data(data)) => {
                self.put_array(to, column, scalar, data)
            }
            (ColumnType::Array(_) | ColumnType::Matrix(_), Value::Null) => {
                Err(Refusal::Unrepresentable("a NULL array"))
            }
            (ColumnType::Point(nullable), Value::Data(data)) => {
                to.point(*nullable, Some(Codec::point(source, data)?));
                Ok(())
            }
            (ColumnType::Point(true), Value::Null) => {
                to.point(true, None);
                Ok(())
            }
            (ColumnType::Plain(_) | ColumnType::Point(false), Value::Null) => {
                Err(Refusal::NullNotAllowed)
            }
        }
    }

    fn put_array(
        &self,
        to: &mut impl Sink,
        column: &Column,
        scalar: &Scalar,
        data: &[u8],
    ) -> Result<(), Refusal> {
        let array = Array::parse(column.encoding, data)?;
        if array.dimensions().iter().any(|dimension| dimension.len == 0) {
            return Err(wrong_length());
        }
        if array.dimensions().iter().any(|dimension| dimension.lower_bound != 1) {
            return Err(Refusal::Unrepresentable("an array that does not start at 1"));
        }
        let is_matrix = matches!(self.ty, ColumnType::Matrix(_));
        // of the arrays that have the elements
        let row = match (array.dimensions(), is_matrix) {
            ([], true) => {
                to.arrays(0);
                return Ok(());
            }
            ([], false) => 0,
            ([only], false) => only.len as usize,
            ([outer, inner], true) => {
                to.arrays(outer.len as usize);
                inner.len as usize
            }
            ([_], true) => return Err(Refusal::Unrepresentable("an array of one dimension")),
            _ => return Err(Refusal::Unrepresentable("an array of several dimensions")),
        };
        if row == 0 {
            to.array(0);
        }
        let (encoding, ty) = self.element.as_ref().ok_or(Refusal::Absent)?;
        for (index, element) in array.elements().enumerate() {
            if row > 0 && index % row == 0 {
                to.array(row);
            }
            let Some(element) = element? else {
                to.null(scalar);
                continue;
            };
            let source = Source::Element(*encoding, ty);
            if self.policy != Unrepresentable::Null {
                self.codec.put(to.value(true), source, element)?;
                continue;
            }
            let start = to.mark();
            match self.codec.put(to.value(true), source, element) {
                Err(Refusal::Unrepresentable(_)) => {
                    to.rewind(start);
                    to.null(scalar);
                }
                result => result?,
            }
        }
        Ok(())
    }
}
