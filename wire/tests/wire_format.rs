//! `docs/wire-format.md` against a frame of a real server (`data/documented-frame.hex`) and against
//! what the decoder reads from it: each line of the dump in the document is made here, from decoded
//! values, and its bytes are held against the frame's.
//!
//! After a change of the frame, `WRITE_DOCS=1 cargo test -p rsrepl-wire --test wire_format` puts the
//! new dump into the document.

use bytes::Bytes;
use rsrepl_wire::{
    Column, Encoding, Frame, Message, OldRowKind, Relation, Row, Value, limits, text,
};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/wire-format.md");
const DUMP_START: &str = "<!-- dump of wire/tests/data/documented-frame.hex -->\n```text\n";
const DUMP_END: &str = "```\n";

/// Bytes in a line of the dump.
const LINE: usize = 12;

fn real_frame() -> Vec<u8> {
    let hex: String = include_str!("data/documented-frame.hex").split_whitespace().collect();
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// Goes through the frame with the bytes that each field is expected to have.
struct Dump {
    bytes: Vec<u8>,
    at: usize,
    lines: String,
}

impl Dump {
    fn field(&mut self, expected: &[u8], meaning: impl AsRef<str>) {
        let found = &self.bytes[self.at..self.at + expected.len()];
        assert_eq!(found, expected, "at {:#06x}: {}", self.at, meaning.as_ref());
        for (index, chunk) in expected.chunks(LINE).enumerate() {
            let hex: Vec<String> = chunk.iter().map(|byte| format!("{byte:02x}")).collect();
            let text = if index == 0 { meaning.as_ref() } else { "" };
            let line = format!("{:04x}  {:<2$}  {text}", self.at, hex.join(" "), LINE * 3 - 1);
            self.lines.push_str(line.trim_end());
            self.lines.push('\n');
            self.at += chunk.len();
        }
    }

    fn string(&mut self, text: &str, what: &str) {
        let mut bytes = varint(text.len() as u64);
        bytes.extend_from_slice(text.as_bytes());
        self.field(&bytes, format!("{what} {text:?}"));
    }

    /// Where the message ends, when all of its fields were seen.
    fn message_head(&mut self, tag: u8, name: &str) -> usize {
        let len = u32::from_le_bytes(self.bytes[self.at + 1..self.at + 5].try_into().unwrap());
        self.lines.push('\n');
        self.field(&[tag], name);
        self.field(&len.to_le_bytes(), format!("{len} bytes follow"));
        self.at + len as usize
    }

    fn change_head(&mut self, base: u64, lsn: u64, relation: &Relation) {
        let delta = lsn.wrapping_sub(base) as i64;
        let zigzag = ((delta << 1) ^ (delta >> 63)) as u64;
        self.field(&varint(zigzag), format!("LSN: base {delta:+}"));
        self.field(&relation.oid.to_le_bytes(), format!("table {relation}"));
    }

    fn relation(&mut self, relation: &Relation) {
        self.field(&relation.oid.to_le_bytes(), format!("oid {}", relation.oid));
        self.string(&relation.schema, "schema");
        self.string(&relation.name, "name");
        let identity = relation.replica_identity;
        self.field(&[identity.to_byte()], format!("replica identity {identity:?}"));
        let count = relation.columns.len();
        self.field(&varint(count as u64), format!("{count} columns"));
        relation.columns.iter().for_each(|column| self.column(column));
    }

    fn column(&mut self, column: &Column) {
        self.string(&column.name, "column");
        let number = u64::from(column.number);
        self.field(&varint(number), format!("attribute number {number}"));
        let flags = [
            (column.key, 1, "key"),
            (column.not_null, 2, "not null"),
            (column.generated, 4, "generated"),
        ];
        let set: Vec<_> = flags.iter().filter(|(is, ..)| *is).collect();
        let names: Vec<_> = set.iter().map(|(_, _, name)| *name).collect();
        let byte = set.iter().map(|(_, bit, _)| bit).sum();
        self.field(&[byte], format!("flags: {}", names.join(", ")).trim_end_matches(": "));
        self.field(&column.type_oid.to_le_bytes(), format!("type oid {}", column.type_oid));
        self.field(&column.base_oid.to_le_bytes(), format!("base type oid {}", column.base_oid));
        self.field(&column.typmod.to_le_bytes(), format!("type modifier {}", column.typmod));
        self.field(&[column.kind.to_byte()], format!("kind {:?}", column.kind));
        self.field(
            &column.element_oid.to_le_bytes(),
            format!("element oid {}", column.element_oid),
        );
        self.field(
            &[column.element_kind.to_byte()],
            format!("element kind {:?}", column.element_kind),
        );
        self.string(&column.type_schema, "type schema");
        self.string(&column.type_name, "type name");
        self.field(&head(column.encoding), format!("encoding {}", name(column.encoding)));
        if let Encoding::Array(element) = column.encoding {
            let encoding = element.encoding.into();
            self.field(&head(encoding), format!("of elements in encoding {}", name(encoding)));
            self.field(&[element.align], format!("each at a multiple of {}", element.align));
        }
    }

    fn row(&mut self, relation: &Relation, row: &Row) {
        let values: Vec<_> = row.values(relation).unwrap().map(Result::unwrap).collect();
        let bitmap_of = |is: fn(&Value<'_>) -> bool| {
            let mut bitmap = vec![0; values.len().div_ceil(8)];
            for (index, _) in values.iter().enumerate().filter(|(_, value)| is(value)) {
                bitmap[index / 8] |= 1 << (index % 8);
            }
            bitmap
        };
        let flags = self.bytes[self.at];
        let meaning = ["no bitmaps", "a null bitmap", "an unchanged bitmap", "both bitmaps"];
        self.field(&[flags], format!("row: {}", meaning[usize::from(flags)]));
        if flags & 1 != 0 {
            self.field(&bitmap_of(|value| matches!(value, Value::Null)), "null columns");
        }
        if flags & 2 != 0 {
            self.field(&bitmap_of(|value| matches!(value, Value::Unchanged)), "unchanged columns");
        }
        for (value, column) in values.iter().zip(&relation.columns) {
            let Value::Data(value) = value else { continue };
            let mut bytes = match column.encoding {
                Encoding::Fixed(_) => vec![],
                _ => varint(value.len() as u64),
            };
            bytes.extend_from_slice(value);
            let mut text = Vec::new();
            text::write(&mut text, column, value).unwrap();
            self.field(&bytes, format!("{} = {}", column.name, String::from_utf8(text).unwrap()));
        }
    }
}

/// The two bytes that every encoding has.
fn head(encoding: Encoding) -> [u8; 2] {
    match encoding {
        Encoding::Fixed(width) => [1, width],
        Encoding::Varlena => [2, 0],
        Encoding::Numeric => [3, 0],
        Encoding::Send => [4, 0],
        Encoding::Text => [5, 0],
        Encoding::Jsonb => [6, 0],
        Encoding::Array(_) => [7, 0],
    }
}

fn name(encoding: Encoding) -> String {
    match encoding {
        Encoding::Array(_) => "Array".into(),
        encoding => format!("{encoding:?}"),
    }
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (value % 128) as u8;
        value /= 128;
        bytes.push(if value > 0 { low + 128 } else { low });
        if value == 0 {
            return bytes;
        }
    }
}

fn dump(frame: &Frame) -> String {
    let mut dump = Dump { bytes: frame.bytes().to_vec(), at: 0, lines: String::new() };
    let base = frame.base();
    dump.field(&[limits::FORMAT_VERSION], "format version");
    dump.field(&[3], "flags: starts with a begin, ends with a commit");
    dump.field(&[0, 0], "zero");
    let checksum = frame.bytes().slice(4..8);
    dump.field(&checksum, "CRC32C of everything else");
    dump.field(&base.0.to_le_bytes(), format!("base LSN {base}"));
    dump.field(&frame.xid().to_le_bytes(), format!("xid {}", frame.xid()));
    let messages: Vec<_> = frame.messages().map(Result::unwrap).collect();
    let count = messages.len() as u32;
    dump.field(&count.to_le_bytes(), format!("{count} messages"));
    let mut table = None;
    for message in &messages {
        let end = describe(&mut dump, base.0, message, &mut table);
        assert_eq!(dump.at, end, "{message:?}");
    }
    assert_eq!(dump.at, dump.bytes.len());
    dump.lines
}

fn describe(dump: &mut Dump, base: u64, message: &Message, table: &mut Option<Relation>) -> usize {
    let known = table.clone();
    let known = || known.as_ref().expect("a relation comes before its rows");
    match message {
        Message::Begin(begin) => {
            let end = dump.message_head(b'B', "BEGIN");
            dump.field(&begin.xid.to_le_bytes(), format!("xid {}", begin.xid));
            dump.field(&begin.final_lsn.0.to_le_bytes(), format!("final LSN {}", begin.final_lsn));
            dump.field(&begin.end_lsn.0.to_le_bytes(), format!("end LSN {}", begin.end_lsn));
            dump.field(&begin.commit_time.to_le_bytes(), "commit time, µs since 2000-01-01 UTC");
            dump.string(&begin.origin, "origin");
            end
        }
        Message::Relation(relation) => {
            let end = dump.message_head(b'R', "RELATION");
            dump.relation(relation);
            *table = Some(relation.clone());
            end
        }
        Message::Insert(insert) => {
            let end = dump.message_head(b'I', "INSERT");
            dump.change_head(base, insert.lsn.0, known());
            dump.row(known(), &insert.new);
            end
        }
        Message::Update(update) => {
            let end = dump.message_head(b'U', "UPDATE");
            dump.change_head(base, update.lsn.0, known());
            let old = update.old.as_ref().expect("the documented update changes the key");
            assert_eq!(old.kind, OldRowKind::Key);
            dump.field(&[1], "old row: the key");
            let len = old.row.0.len() as u32;
            dump.field(&len.to_le_bytes(), format!("old row: {len} bytes follow"));
            dump.row(known(), &old.row);
            dump.row(known(), &update.new);
            end
        }
        Message::Delete(delete) => {
            let end = dump.message_head(b'D', "DELETE");
            dump.change_head(base, delete.lsn.0, known());
            assert_eq!(delete.old.kind, OldRowKind::Key);
            dump.field(&[1], "old row: the key");
            dump.row(known(), &delete.old.row);
            end
        }
        Message::Commit(commit) => {
            let end = dump.message_head(b'C', "COMMIT");
            dump.field(
                &commit.final_lsn.0.to_le_bytes(),
                format!("final LSN {}", commit.final_lsn),
            );
            dump.field(&commit.end_lsn.0.to_le_bytes(), format!("end LSN {}", commit.end_lsn));
            dump.field(&commit.commit_time.to_le_bytes(), "commit time");
            end
        }
        other => panic!("the document explains no {other:?}"),
    }
}

#[test]
fn the_document_shows_a_real_frame_as_it_is_read() {
    let frame = Frame::parse(Bytes::from(real_frame())).unwrap();
    let expected = dump(&frame);
    let document = std::fs::read_to_string(DOCUMENT).unwrap();
    let (before, rest) = document.split_once(DUMP_START).expect("the document has a dump");
    let (shown, after) = rest.split_once(DUMP_END).expect("the dump ends");
    if std::env::var_os("WRITE_DOCS").is_some() {
        let document = format!("{before}{DUMP_START}{expected}{DUMP_END}{after}");
        std::fs::write(DOCUMENT, document).unwrap();
        return;
    }
    assert_eq!(shown, expected, "docs/wire-format.md is not true any more: see WRITE_DOCS");

    // the document alone gives the frame back
    let hex = |line: &str| -> Vec<u8> {
        let columns = line.get(6..6 + LINE * 3).unwrap_or(line.get(6..).unwrap_or_default());
        let bytes = columns.split_whitespace();
        bytes.map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
    };
    let shown: Vec<u8> = shown.lines().flat_map(hex).collect();
    assert_eq!(shown, real_frame());
}

/// The figures in the document's tables that the code has too.
#[test]
fn the_document_names_the_limits_as_they_are() {
    let document = std::fs::read_to_string(DOCUMENT).unwrap();
    for (limit, value) in [
        ("FORMAT_VERSION", u64::from(limits::FORMAT_VERSION)),
        ("FRAME_TARGET", limits::FRAME_TARGET as u64),
        ("FRAME_MAX", limits::FRAME_MAX as u64),
        ("COLUMNS_MAX", limits::COLUMNS_MAX as u64),
        ("NAME_MAX", limits::NAME_MAX as u64),
        ("TRUNCATE_RELATIONS_MAX", limits::TRUNCATE_RELATIONS_MAX as u64),
        ("TEXT_MAX", limits::TEXT_MAX as u64),
        ("JSONB_DEPTH_MAX", limits::JSONB_DEPTH_MAX as u64),
    ] {
        let row = format!("| `{limit}` | {value} |");
        assert!(document.contains(&row), "{row}");
    }
}
