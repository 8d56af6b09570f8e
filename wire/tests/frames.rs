//! Single behaviours of frames, each with the bytes that show it.

mod support;

use bytes::Bytes;
use rsrepl_wire::limits::{FORMAT_VERSION, FRAME_TARGET};
use rsrepl_wire::text::{Type, oid};
use rsrepl_wire::{
    Begin, Column, Commit, DecodeError, DecodeErrorKind, Encoding, Frame, FrameWriter, Lsn,
    Message, OldRowKind, Relation, ReplicaIdentity, Row, RowShape, TypeKind, Value,
};
use support::harness::{column, with_checksum};

const PLAIN: RowShape = RowShape { columns: 2, nulls: false, unchanged: false };

/// `shop.item(id int4, note text)`.
fn table() -> Relation {
    let of = |number, encoding, oid, name: &str| {
        let ty = Type { oid, kind: TypeKind::Base, element_oid: 0, element_kind: TypeKind::Base };
        Column { name: name.into(), number, key: oid == oid::INT4, ..column(encoding, &ty) }
    };
    Relation {
        oid: 16_385,
        schema: "shop".into(),
        name: "item".into(),
        replica_identity: ReplicaIdentity::Default,
        columns: vec![
            of(1, Encoding::Fixed(4), oid::INT4, "id"),
            of(3, Encoding::Varlena, oid::TEXT, "note"), // one before it was dropped
        ],
    }
}

fn begin() -> Begin {
    Begin {
        xid: 7,
        final_lsn: Lsn(1000),
        end_lsn: Lsn(1048),
        commit_time: -5,
        origin: String::new(),
    }
}

fn commit() -> Commit {
    Commit { final_lsn: Lsn(1000), end_lsn: Lsn(1048), commit_time: -5 }
}

fn frame(write: impl FnOnce(&mut FrameWriter)) -> Vec<u8> {
    let mut writer = FrameWriter::new();
    writer.start(Lsn(500), 7);
    write(&mut writer);
    writer.finish().to_vec()
}

fn parse(bytes: Vec<u8>) -> Result<Frame, DecodeError> {
    Frame::parse(Bytes::from(bytes))
}

fn messages(bytes: Vec<u8>) -> Result<Vec<Message>, DecodeError> {
    parse(bytes)?.messages().collect()
}

/// The same frame with one byte changed and the checksum made right.
fn patched(mut bytes: Vec<u8>, at: usize, byte: u8) -> Vec<u8> {
    bytes[at] = byte;
    with_checksum(bytes)
}

#[test]
fn another_version_is_named_whatever_else_is_in_it() {
    for bytes in [vec![FORMAT_VERSION + 1], vec![FORMAT_VERSION + 1; 50], {
        let mut bytes = frame(|_| {});
        bytes[0] = 9; // and its checksum may be computed in another way
        bytes
    }] {
        let found = bytes[0];
        let error = parse(bytes).unwrap_err();
        assert_eq!(error.kind, DecodeErrorKind::Version { found, known: FORMAT_VERSION });
        assert_eq!(error.offset, 0);
        assert!(error.to_string().contains("upgrade the older"), "{error}");
    }
    for found in [0, 1] {
        let error = parse(patched(frame(|_| {}), 0, found)).unwrap_err();
        assert_eq!(error.kind, DecodeErrorKind::Version { found, known: FORMAT_VERSION });
    }
}

#[test]
fn an_unknown_message_is_an_error_at_its_tag() {
    let bytes = frame(|writer| {
        writer.begin(&begin());
        writer.truncate(Lsn(500), false, false, &[16_385]);
    });
    let tag_at = bytes.iter().rposition(|byte| *byte == b'T').unwrap();
    let frame = parse(patched(bytes, tag_at, b'S')).unwrap();
    let mut messages = frame.messages();
    assert_eq!(messages.next(), Some(Ok(Message::Begin(begin()))));
    let kind = DecodeErrorKind::Unknown { field: "message tag", value: b'S'.into() };
    assert_eq!(messages.next(), Some(Err(DecodeError { kind, what: "frame", offset: tag_at })));
    assert_eq!(messages.next(), None, "nothing after the first error");
}

#[test]
fn unknown_flags_and_reserved_bytes_are_errors() {
    let kind = |at, byte| parse(patched(frame(|_| {}), at, byte)).unwrap_err().kind;
    assert_eq!(kind(1, 0x10), DecodeErrorKind::Unknown { field: "frame flag", value: 0x10 });
    assert_eq!(kind(3, 0x01), DecodeErrorKind::Unknown { field: "reserved bytes", value: 0x100 });
    // a row flag, which is read with the row
    let insert = Row(Bytes::from_static(&[0x04, 0, 0, 0, 0, 0]));
    let error = insert.validate(&table()).unwrap_err();
    assert_eq!(error.kind, DecodeErrorKind::Unknown { field: "row flags", value: 4 });
}

/// Offsets are those of `docs/wire-format.md`, from the start of the body.
#[test]
fn a_table_that_this_version_cannot_know_is_refused() {
    let bytes = frame(|writer| writer.relation(&table()));
    let body = 24 + 5;
    let (schema, name) = (body + 4, body + 4 + 5);
    let (identity, columns) = (name + 5, name + 6);
    let (column, number, flags) = (columns + 1, columns + 4, columns + 5);
    let kind = flags + 1 + 4 + 4 + 4;
    let (encoding, width) = (bytes.len() - 2, bytes.len() - 1);
    let second_number = bytes.windows(5).rposition(|name| name == b"\x04note").unwrap() + 5;
    let unknown = |field, value| DecodeErrorKind::Unknown { field, value };
    for (at, byte, expected) in [
        (schema + 1, 0xFF, DecodeErrorKind::Utf8 { field: "schema name" }),
        (identity, b'x', unknown("replica identity", u64::from(b'x'))),
        (number, 0, unknown("attribute number", 0)),
        (second_number, 1, unknown("attribute number, again", 1)),
        (flags, 0x08, unknown("column flags", 8)),
        (kind, b'd', unknown("type kind", u64::from(b'd'))),
        (kind + 5, b'?', unknown("element type kind", u64::from(b'?'))),
        (encoding, 8, unknown("encoding", 8)),
        (encoding, 1, unknown("encoding width", 0)),
        (width, 4, unknown("encoding width", 4)),
    ] {
        let error = messages(patched(bytes.clone(), at, byte)).unwrap_err();
        assert_eq!(error.kind, expected, "byte {at}");
        assert!((body..=bytes.len()).contains(&error.offset), "{error}");
    }
    // a column less than there are: what is left over is not ignored
    let error = messages(patched(bytes.clone(), columns, 1)).unwrap_err();
    assert!(matches!(error.kind, DecodeErrorKind::Trailing { field: "message", .. }), "{error}");
    // and 1601 of them, before any is read; nor can a column have that number
    for (at, field) in [(columns, "column count"), (number, "attribute number")] {
        let mut many = bytes[..column.max(at)].to_vec();
        many.splice(at.., [0xC1, 0x0C]);
        let len = (many.len() - body) as u32;
        many[25..29].copy_from_slice(&len.to_le_bytes());
        let error = messages(with_checksum(many)).unwrap_err();
        assert_eq!(error.kind, DecodeErrorKind::Limit { field, value: 1601, limit: 1600 });
    }
}

#[test]
fn a_wrong_checksum_is_an_error_before_any_message() {
    let mut bytes = frame(|writer| writer.begin(&begin()));
    *bytes.last_mut().unwrap() ^= 1;
    assert!(matches!(parse(bytes).unwrap_err().kind, DecodeErrorKind::Checksum { .. }));
}

#[test]
fn the_header_and_the_messages_must_agree() {
    let whole = frame(|writer| {
        writer.begin(&begin());
        writer.commit(&commit());
    });
    assert_eq!(messages(whole.clone()).unwrap().len(), 2);
    let field = |bytes| match messages(bytes).unwrap_err().kind {
        DecodeErrorKind::Mismatch { field, .. } => field,
        other => panic!("{other:?}"),
    };
    assert_eq!(field(patched(whole.clone(), 20, 3)), "number of messages");
    assert_eq!(field(patched(whole.clone(), 1, 0x01)), "flags of the messages");
    assert_eq!(field(patched(whole.clone(), 16, 8)), "xid of the begin");
    let late = frame(|writer| {
        writer.truncate(Lsn(500), false, false, &[]);
        writer.begin(&begin());
    });
    assert_eq!(field(late.clone()), "number of messages before the begin");
    assert!(parse(late).unwrap().begin().is_err());
    let change = frame(|writer| writer.truncate(Lsn(500), false, false, &[]));
    let behind = joined(&whole, &change, 3);
    let error = messages(behind.clone()).unwrap_err();
    assert!(matches!(error.kind, DecodeErrorKind::Trailing { field: "the commit", .. }));
    assert!(parse(behind).unwrap().commit().is_err());
    let begun = frame(|writer| writer.begin(&begin()));
    let open = joined(&whole, &begun, 3);
    assert_eq!(field(open), "number of commits at the end");
    assert_eq!(field(joined(&begun, &begun, 2)), "number of messages before the begin");
}

/// The messages of both, with the header of the first.
fn joined(one: &[u8], two: &[u8], count: u8) -> Vec<u8> {
    patched([one, &two[24..]].concat(), 20, count)
}

#[test]
fn a_frame_ends_with_its_last_transaction_and_the_next_goes_on() {
    let mut writer = FrameWriter::new();
    writer.start(Lsn(500), 7);
    writer.begin(&begin());
    writer.commit(&commit());
    let second = Begin { xid: 8, ..begin() };
    writer.begin(&second);
    writer.truncate(Lsn(600), false, false, &[1]);
    writer.set_more(true);
    let first = parse(writer.finish().to_vec()).unwrap();
    assert!(first.begins() && first.commits() && first.more());
    let read: Vec<_> = first.messages().map(Result::unwrap).collect();
    assert_eq!(read, [Message::Begin(begin()), Message::Commit(commit())]);
    assert!(writer.go_on());
    writer.truncate(Lsn(601), false, false, &[2]);
    let next = parse(writer.finish().to_vec()).unwrap();
    assert!(next.begins() && !next.commits() && !next.more());
    assert_eq!((next.base(), next.xid()), (Lsn(500), 8));
    let read: Vec<_> = next.messages().map(Result::unwrap).collect();
    assert_eq!(read[0], Message::Begin(second));
    let lsns = read[1..].iter().map(|message| match message {
        Message::Truncate(truncate) => truncate.lsn,
        other => panic!("{other:?}"),
    });
    assert_eq!(lsns.collect::<Vec<_>>(), [Lsn(600), Lsn(601)]);
    assert!(!writer.go_on(), "all of it was in the frame");
    writer.start(Lsn(700), 9);
    writer.begin(&begin());
    writer.commit(&commit());
    writer.finish();
    assert!(!writer.go_on(), "nothing came behind the commit");
}

#[test]
fn a_frame_without_messages_says_that_there_is_nothing_more() {
    let mut writer = FrameWriter::new();
    writer.start(Lsn(500), 0);
    let frame = parse(writer.finish().to_vec()).unwrap();
    assert!(!frame.has_messages() && !frame.more() && !frame.begins() && !frame.commits());
    assert_eq!(frame.messages().next(), None);
}

#[test]
fn begin_and_commit_are_found_without_the_rows() {
    let bytes = frame(|writer| {
        writer.begin(&begin());
        writer.insert(Lsn(500), 16_385, PLAIN, |row| {
            row.fixed(&[1, 0, 0, 0]);
            row.variable(b"C");
        });
        writer.commit(&commit());
    });
    let frame = parse(bytes).unwrap();
    assert_eq!(frame.begin(), Ok(Some(begin())));
    assert_eq!(frame.commit(), Ok(Some(commit())));
    let neither = parse(self::frame(|_| {})).unwrap();
    assert_eq!((neither.begin(), neither.commit()), (Ok(None), Ok(None)));
}

#[test]
fn a_row_has_all_of_its_columns_and_nothing_else() {
    let table = table();
    let check = |bytes: &'static [u8]| Row(Bytes::from_static(bytes)).validate(&table);
    check(&[0, 1, 0, 0, 0, 1, b'x']).unwrap();
    check(&[1, 0b10, 1, 0, 0, 0]).unwrap();
    check(&[2, 0b10, 1, 0, 0, 0]).unwrap();
    check(&[3, 0b01, 0b10]).unwrap();
    let error = check(&[0, 1, 0, 0, 0, 1]).unwrap_err();
    assert_eq!((error.what, error.offset), ("row", 6));
    assert_eq!(error.kind, DecodeErrorKind::Truncated { field: "value", needed: 1 });
    let error = check(&[0, 1, 0, 0, 0, 0, 9]).unwrap_err();
    assert_eq!(error.kind, DecodeErrorKind::Trailing { field: "the last column", count: 1 });
    for bitmaps in [&[3u8, 0b10, 0b10][..], &[1, 0b110, 1, 0, 0, 0], &[2, 0x80, 1, 0, 0, 0, 0]] {
        let error = Row(Bytes::copy_from_slice(bitmaps)).validate(&table).unwrap_err();
        assert!(
            matches!(error.kind, DecodeErrorKind::Unknown { field: "bitmap bits", .. }),
            "{bitmaps:?}: {error}"
        );
    }
}

#[test]
fn a_value_longer_than_a_frame_can_be_is_refused_by_its_length() {
    let mut bytes = vec![0, 1, 0, 0, 0];
    bytes.extend_from_slice(&[0xFF, 0xFF, 0xFF, 0xFF, 0x0F]);
    let error = Row(Bytes::from(bytes)).validate(&table()).unwrap_err();
    assert!(matches!(error.kind, DecodeErrorKind::Limit { field: "value length", .. }), "{error}");
}

#[test]
fn an_old_row_is_told_from_the_new_one() {
    let table = table();
    let bytes = frame(|writer| {
        writer.update_with_old(
            Lsn(400), // before the base
            16_385,
            OldRowKind::Key,
            RowShape { nulls: true, ..PLAIN },
            |row| {
                row.fixed(&1i32.to_le_bytes());
                row.null();
            },
            RowShape { unchanged: true, ..PLAIN },
            |row| {
                row.fixed(&2i32.to_le_bytes());
                row.unchanged();
            },
        );
    });
    let Message::Update(update) = messages(bytes).unwrap().remove(0) else { panic!() };
    assert_eq!(update.lsn, Lsn(400));
    let values = |row: &Row| -> Vec<String> {
        row.values(&table).unwrap().map(|value| format!("{:?}", value.unwrap())).collect()
    };
    let old = update.old.unwrap();
    assert_eq!(old.kind, OldRowKind::Key);
    assert_eq!(values(&old.row), ["Data([1, 0, 0, 0])", "Null"]);
    assert_eq!(values(&update.new), ["Data([2, 0, 0, 0])", "Unchanged"]);
}

#[test]
fn the_smallest_and_the_largest_lsn_fit_any_base() {
    for (base, lsn) in [(0, u64::MAX), (u64::MAX, 0), (1 << 63, 0), (0, 1 << 63), (5, 5)] {
        let mut writer = FrameWriter::new();
        writer.start(Lsn(base), 1);
        writer.truncate(Lsn(lsn), true, false, &[1, 2]);
        let Message::Truncate(truncate) = messages(writer.finish().to_vec()).unwrap().remove(0)
        else {
            panic!()
        };
        assert_eq!(truncate.lsn, Lsn(lsn), "base {base}");
    }
}

#[test]
fn a_writer_that_was_never_started_has_nothing_to_send() {
    assert_eq!(FrameWriter::new().finish(), b"");
}

#[test]
#[should_panic(expected = "columns written of a row")]
fn a_row_with_too_few_values_is_never_sent() {
    frame(|writer| writer.insert(Lsn(1), 1, PLAIN, |row| row.fixed(&[0; 4])));
}

#[test]
#[should_panic(expected = "without this bitmap")]
fn a_null_that_was_not_announced_is_never_sent() {
    frame(|writer| writer.insert(Lsn(1), 1, PLAIN, |row| row.null()));
}

#[test]
fn after_a_panic_in_a_row_frames_are_clean() {
    let mut writer = FrameWriter::new();
    writer.start(Lsn(500), 7);
    writer.begin(&begin());
    let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        writer.insert(Lsn(1), 1, PLAIN, |row| {
            row.variable(b"half a row");
            panic!("provoked");
        });
    }));
    assert!(unwound.is_err());
    let begun = frame(|writer| writer.begin(&begin()));
    assert_eq!(writer.len(), begun.len());
    assert_eq!(writer.finish(), begun, "what was half written is not in the frame");
    writer.commit(&commit());
    let whole = frame(|writer| {
        writer.begin(&begin());
        writer.commit(&commit());
    });
    assert_eq!(writer.finish(), whole, "and it goes on");
    writer.start(Lsn(500), 7);
    writer.begin(&begin());
    assert_eq!(writer.finish(), begun, "and the next is clean");
}

#[test]
fn one_enormous_row_does_not_keep_its_memory() {
    let mut writer = FrameWriter::new();
    writer.start(Lsn(1), 1);
    let big = vec![b'x'; 64 * FRAME_TARGET];
    writer.logical(Lsn(1), true, "p", &big);
    assert!(writer.is_full() && writer.len() > big.len());
    writer.start(Lsn(1), 1);
    assert!(writer.is_empty() && !writer.is_full());
    assert!(writer.capacity() < 2 * FRAME_TARGET, "{}", writer.capacity());
}

#[test]
fn rows_are_slices_of_the_frame() {
    let table = table();
    let bytes = Bytes::from(frame(|writer| {
        writer.insert(Lsn(500), 16_385, PLAIN, |row| {
            row.fixed(&[1, 0, 0, 0]);
            row.variable(b"somewhere in the frame");
        });
    }));
    let range = bytes.as_ptr_range();
    let frame = Frame::parse(bytes.clone()).unwrap();
    let Some(Ok(Message::Insert(insert))) = frame.messages().next() else { panic!() };
    let value = insert.new.values(&table).unwrap().nth(1).unwrap().unwrap();
    let Value::Data(value) = value else { panic!("{value:?}") };
    assert!(range.contains(&value.as_ptr()), "copied");
}
