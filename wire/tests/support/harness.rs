//! What must hold of any bytes at all. Shared by the property tests, the fuzz targets and the replay
//! of their corpus.

use std::collections::HashMap;

use bytes::Bytes;
use rsrepl_wire::frame::checksum;
use rsrepl_wire::text::array::Array;
use rsrepl_wire::text::datetime::Civil;
use rsrepl_wire::text::numeric::Numeric;
use rsrepl_wire::text::{self, Type};
use rsrepl_wire::{
    Column, Element, ElementEncoding, Encoding, Frame, FrameWriter, Message, Relation, Row,
    RowShape, RowWriter, StreamEnd, TypeKind, Value,
};

/// Puts the right checksum in, so that the messages are reached.
pub fn with_checksum(mut bytes: Vec<u8>) -> Vec<u8> {
    let checksum = checksum(&bytes).to_le_bytes();
    if let Some(field) = bytes.get_mut(4..8) {
        field.copy_from_slice(&checksum);
    }
    bytes
}

/// Reads the bytes as a frame with the right checksum, and each value of it as text. What can be
/// read must be written again to the same bytes: every message has one form only.
pub fn frame(bytes: &[u8]) {
    let bytes = Bytes::from(with_checksum(bytes.to_vec()));
    let Ok(frame) = Frame::parse(bytes) else { return };
    let (begin, commit) = (frame.begin(), frame.commit());
    let mut tables = HashMap::new();
    let mut messages = Vec::new();
    for message in frame.messages() {
        match message {
            Ok(message) => {
                look_at(&message, &mut tables);
                messages.push(message);
            }
            Err(error) => {
                assert!(error.offset <= frame.len(), "{error}");
                return;
            }
        }
    }
    // the short cuts agree with the long way
    let first = messages.first().and_then(|message| match message {
        Message::Begin(begin) => Some(begin.clone()),
        _ => None,
    });
    assert_eq!(begin, Ok(first));
    let last = messages.last().and_then(|message| match message {
        Message::Commit(commit) => Some(*commit),
        _ => None,
    });
    assert_eq!(commit, Ok(last));
    let end = messages.first().and_then(|message| match message {
        Message::StreamCommit(commit) => Some(StreamEnd::Commit(commit.clone())),
        Message::StreamAbort(abort) => Some(StreamEnd::Abort(*abort)),
        _ => None,
    });
    assert_eq!(frame.stream_end(), Ok(end));
    let until = frame.until(frame.len()).map(|bytes| bytes[8..].to_vec());
    assert_eq!(until.as_deref(), Ok(&frame.bytes()[8..]));
    if let Some(again) = write_again(&frame, &messages) {
        // an older version has the same form for what it has
        assert_eq!(&again[8..], &frame.bytes()[8..], "written again");
        assert_eq!(again[1], frame.bytes()[1], "flags");
    }
}

fn look_at(message: &Message, tables: &mut HashMap<u32, Relation>) {
    let row = |relation: &u32, row: &Row| {
        if let Some(relation) = tables.get(relation) {
            read_row(relation, row);
        }
    };
    match message {
        Message::Relation(relation) => {
            tables.insert(relation.oid, relation.clone());
        }
        Message::Insert(insert) => row(&insert.relation, &insert.new),
        Message::Update(update) => {
            if let Some(old) = &update.old {
                row(&update.relation, &old.row);
            }
            row(&update.relation, &update.new);
        }
        Message::Delete(delete) => row(&delete.relation, &delete.old.row),
        Message::Begin(_)
        | Message::Commit(_)
        | Message::Truncate(_)
        | Message::Logical(_)
        | Message::StreamCommit(_)
        | Message::StreamAbort(_) => {}
    }
}

/// Every value until the first error, each as text; whether the row is whole.
fn read_row(relation: &Relation, row: &Row) -> bool {
    let Ok(values) = row.values(relation) else {
        assert!(row.validate(relation).is_err());
        return false;
    };
    let mut whole = true;
    let mut columns = relation.columns.iter();
    for value in values {
        match (value, columns.next()) {
            (Ok(Value::Data(value)), Some(column)) => read_value(column, value),
            (Ok(_), Some(_)) => {}
            (Ok(_), None) => panic!("more values than columns"),
            (Err(_), _) => whole = false,
        }
    }
    assert_eq!(whole, row.validate(relation).is_ok());
    assert!(!whole || columns.next().is_none(), "fewer values than columns");
    whole
}

/// The text form of bytes that may be anything.
pub fn read_value(column: &Column, value: &[u8]) {
    let mut out = b"before".to_vec();
    let result = text::write(&mut out, column, value);
    let text = out.strip_prefix(b"before").expect("only appends");
    assert!(std::str::from_utf8(text).is_ok(), "{column:?}: {text:?}");
    assert!(result.is_ok() || text.is_empty(), "{column:?}: an error leaves {text:?}");
    if matches!(result, Err(text::ValueError::Unsupported { .. })) {
        let nested = column.element_kind == TypeKind::Array;
        assert!(!text::is_supported(column) || nested, "{column:?}: {result:?}");
    }
    let numerics = [Numeric::from_disk(value), Numeric::from_send(value)];
    for numeric in numerics.into_iter().flatten() {
        let (mut sent, mut text, mut text_of_sent) = (Vec::new(), Vec::new(), Vec::new());
        numeric.write_send(&mut sent);
        numeric.write(&mut text);
        Numeric::from_send(&sent).expect("what is sent can be read").write(&mut text_of_sent);
        assert_eq!(text, text_of_sent);
    }
    if let Ok(array) = Array::parse(column.encoding, value) {
        let elements = array.elements().take_while(Result::is_ok).count();
        assert!(elements <= array.len());
        let all: Vec<_> = array.elements().collect();
        assert!(all.iter().rev().skip(1).all(Result::is_ok), "nothing after the first error");
    }
    if let Some(days) = value.first_chunk::<4>() {
        let civil = Civil::from_days(i32::from_le_bytes(*days));
        assert!((1..=12).contains(&civil.month) && (1..=31).contains(&civil.day), "{civil:?}");
    }
}

/// The same messages in a new frame; none if a row's table is not known.
fn write_again(frame: &Frame, messages: &[Message]) -> Option<Vec<u8>> {
    let mut writer = FrameWriter::new();
    let mut tables: HashMap<u32, &Relation> = HashMap::new();
    match frame.streams() {
        true => writer.start_stream(frame.base(), frame.xid()),
        false => writer.start(frame.base(), frame.xid()),
    }
    for message in messages {
        match message {
            Message::Begin(begin) => writer.begin(begin),
            Message::Commit(commit) => writer.commit(commit),
            Message::StreamCommit(commit) => writer.stream_commit(commit),
            Message::StreamAbort(abort) => writer.stream_abort(abort),
            Message::Relation(relation) => {
                tables.insert(relation.oid, relation);
                writer.relation(relation);
            }
            Message::Truncate(truncate) => writer.truncate(
                truncate.lsn,
                truncate.cascade,
                truncate.restart_identity,
                &truncate.relations,
            ),
            Message::Logical(message) => writer.logical(
                message.lsn,
                message.transactional,
                &message.prefix,
                &message.content,
            ),
            Message::Insert(insert) => {
                let new = Cells::of(tables.get(&insert.relation)?, &insert.new)?;
                writer.insert(insert.lsn, insert.relation, new.shape, |w| new.write(w));
            }
            Message::Update(update) => {
                let new = Cells::of(tables.get(&update.relation)?, &update.new)?;
                match &update.old {
                    None => writer.update(update.lsn, update.relation, new.shape, |w| new.write(w)),
                    Some(old) => {
                        let cells = Cells::of(tables.get(&update.relation)?, &old.row)?;
                        writer.update_with_old(
                            update.lsn,
                            update.relation,
                            old.kind,
                            cells.shape,
                            |w| cells.write(w),
                            new.shape,
                            |w| new.write(w),
                        );
                    }
                }
            }
            Message::Delete(delete) => {
                let old = Cells::of(tables.get(&delete.relation)?, &delete.old.row)?;
                let kind = delete.old.kind;
                writer.delete(delete.lsn, delete.relation, kind, old.shape, |w| old.write(w));
            }
        }
    }
    writer.set_more(frame.more());
    Some(writer.finish().to_vec())
}

/// A whole row, taken apart.
struct Cells<'a> {
    shape: RowShape,
    cells: Vec<(Value<'a>, Encoding)>,
}

impl<'a> Cells<'a> {
    fn of(relation: &'a Relation, row: &'a Row) -> Option<Self> {
        if !read_row(relation, row) {
            return None;
        }
        let flags = row.0.first().copied().unwrap_or(0);
        let shape = RowShape {
            columns: relation.columns.len(),
            nulls: flags & 1 != 0,
            unchanged: flags & 2 != 0,
        };
        let values = row.values(relation).expect("read before").map(|value| value.expect("whole"));
        let encodings = relation.columns.iter().map(|column| column.encoding);
        Some(Cells { shape, cells: values.zip(encodings).collect() })
    }

    fn write(&self, row: &mut RowWriter<'_>) {
        for (value, encoding) in &self.cells {
            match (value, encoding) {
                (Value::Null, _) => row.null(),
                (Value::Unchanged, _) => row.unchanged(),
                (Value::Data(value), Encoding::Fixed(_)) => row.fixed(value),
                (Value::Data(value), _) => row.variable(value),
            }
        }
    }
}

/// The letter of an encoding in a seed.
fn letter(encoding: Encoding) -> u8 {
    match encoding {
        Encoding::Fixed(_) => b'F',
        Encoding::Varlena => b'V',
        Encoding::Numeric => b'N',
        Encoding::Jsonb => b'J',
        Encoding::Array(_) => b'A',
        Encoding::Send => b'S',
        Encoding::Text => b'T',
    }
}

/// What [`value`] takes apart.
pub fn value_seed(column: &Column, value: &[u8]) -> Vec<u8> {
    let element = match column.encoding {
        Encoding::Array(element) => {
            let width = match element.encoding {
                ElementEncoding::Fixed(width) => width,
                _ => 0,
            };
            [letter(element.encoding.into()), (element.align.ilog2() as u8) << 6 | width & 0x3F]
        }
        _ => [0, 0],
    };
    let mut seed = vec![
        letter(column.encoding),
        element[0],
        element[1],
        column.kind.to_byte(),
        column.element_kind.to_byte(),
    ];
    for oid in [column.base_oid, column.element_oid] {
        seed.extend_from_slice(&(oid as u16).to_le_bytes()); // of built-in types
    }
    seed.extend_from_slice(value);
    seed
}

/// A column and a value from bytes: how it is written and what type it has, then the value.
pub fn value(bytes: &[u8]) {
    let Some((head, value)) = bytes.split_first_chunk::<9>() else { return };
    let [encoding, element, layout, kind, element_kind, a, b, c, d] = head;
    let kind_of = |byte: &u8| TypeKind::from_byte(*byte).unwrap_or(TypeKind::Base);
    let encoding = match encoding {
        b'F' => Encoding::Fixed(value.len().clamp(1, 255) as u8),
        b'V' => Encoding::Varlena,
        b'N' => Encoding::Numeric,
        b'J' => Encoding::Jsonb,
        b'A' => Encoding::Array(Element {
            encoding: match element {
                b'F' => ElementEncoding::Fixed((layout & 0x3F).max(1)),
                b'N' => ElementEncoding::Numeric,
                b'J' => ElementEncoding::Jsonb,
                _ => ElementEncoding::Varlena,
            },
            align: 1 << (layout >> 6),
        }),
        b'T' => Encoding::Text,
        _ => Encoding::Send,
    };
    let base_oid = u32::from(u16::from_le_bytes([*a, *b]));
    let element_oid = u32::from(u16::from_le_bytes([*c, *d]));
    let ty = Type {
        oid: base_oid,
        kind: kind_of(kind),
        element_oid,
        element_kind: kind_of(element_kind),
    };
    read_value(&column(encoding, &ty), value);
}

/// A column of which only type and encoding matter.
pub fn column(encoding: Encoding, ty: &Type) -> Column {
    Column {
        name: "v".into(),
        number: 1,
        key: false,
        not_null: false,
        generated: false,
        type_oid: ty.oid,
        base_oid: ty.oid,
        typmod: -1,
        kind: ty.kind,
        element_oid: ty.element_oid,
        element_kind: ty.element_kind,
        type_schema: "pg_catalog".into(),
        type_name: "v".into(),
        encoding,
    }
}
