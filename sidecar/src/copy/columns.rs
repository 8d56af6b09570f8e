//! How the columns of a table come in a COPY that is converted here (pure).
//!
//! A column must become the same on a target whichever way its values come. So the description is the
//! stream's, with another encoding; where the stream has text that an output function wrote, the COPY asks for
//! that text; and what is text in all but its type's name, which a reader of the send form would not know, is
//! described as text.

use rsrepl_wire::text::oid;
use rsrepl_wire::{Column, ElementEncoding, Encoding, Relation};

use super::{ColumnForm, Form, Format};

/// A table as a COPY in binary brings it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    /// With columns of [`Encoding::Send`] and [`Encoding::Text`].
    pub relation: Relation,
    /// What to ask for.
    pub form: Form,
}

impl Copied {
    /// `stream`: as the stream describes the table.
    pub fn of(stream: &Relation) -> Copied {
        let (columns, forms) = stream.columns.iter().map(copied).unzip();
        Copied {
            relation: Relation { columns, ..stream.clone() },
            form: Form { format: Format::Binary, columns: forms },
        }
    }
}

fn copied(column: &Column) -> (Column, ColumnForm) {
    let sent = Column { encoding: Encoding::Send, ..column.clone() };
    match column.encoding {
        Encoding::Text => (column.clone(), ColumnForm::Text),
        Encoding::Varlena => {
            (Column { base_oid: payload(column.base_oid), ..sent }, ColumnForm::Native)
        }
        Encoding::Array(element) if element.encoding == ElementEncoding::Varlena => {
            (Column { element_oid: payload(column.element_oid), ..sent }, ColumnForm::Native)
        }
        Encoding::Fixed(_)
        | Encoding::Numeric
        | Encoding::Jsonb
        | Encoding::Array(_)
        | Encoding::Send => (sent, ColumnForm::Native),
    }
}

/// Of what the send function gives as it is: text, or bytes.
fn payload(type_oid: u32) -> u32 {
    if type_oid == oid::BYTEA { oid::BYTEA } else { oid::TEXT }
}

#[cfg(test)]
mod tests {
    use rsrepl_wire::{Element, ReplicaIdentity, TypeKind};

    use super::*;

    fn column(base_oid: u32, element_oid: u32, encoding: Encoding) -> Column {
        let kind = if element_oid == 0 { TypeKind::Base } else { TypeKind::Array };
        Column {
            name: "c".into(),
            number: 1,
            key: false,
            not_null: false,
            generated: false,
            type_oid: base_oid,
            base_oid,
            typmod: -1,
            kind,
            element_oid,
            element_kind: TypeKind::Base,
            type_schema: "s".into(),
            type_name: "t".into(),
            encoding,
        }
    }

    fn table(columns: Vec<Column>) -> Copied {
        Copied::of(&Relation {
            oid: 1,
            schema: "public".into(),
            name: "t".into(),
            replica_identity: ReplicaIdentity::Full,
            columns,
        })
    }

    #[test]
    fn what_is_asked_for() {
        let texts = Encoding::Array(Element { encoding: ElementEncoding::Varlena, align: 4 });
        let ints = Encoding::Array(Element { encoding: ElementEncoding::Fixed(4), align: 4 });
        let copied = table(vec![
            column(oid::INT4, 0, Encoding::Fixed(4)),
            column(oid::BYTEA, 0, Encoding::Varlena),
            column(70_000, 0, Encoding::Varlena),
            column(70_001, 70_000, texts),
            column(1001, oid::BYTEA, texts),
            column(1007, oid::INT4, ints),
        ]);
        assert_eq!(copied.form.columns, [ColumnForm::Native; 6]);
        let types: Vec<_> =
            copied.relation.columns.iter().map(|c| (c.base_oid, c.element_oid)).collect();
        assert_eq!(
            types,
            [
                (oid::INT4, 0),
                (oid::BYTEA, 0),
                (oid::TEXT, 0),
                (70_001, oid::TEXT),
                (1001, oid::BYTEA),
                (1007, oid::INT4)
            ]
        );
        assert!(copied.relation.columns.iter().all(|c| c.encoding == Encoding::Send));
    }

    #[test]
    fn what_an_output_function_wrote() {
        let text = column(oid::XML, 0, Encoding::Text);
        let copied = table(vec![text.clone()]);
        assert_eq!(
            (copied.relation.columns, copied.form.columns),
            (vec![text], vec![ColumnForm::Text])
        );
    }
}
