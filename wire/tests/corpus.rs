//! The seed corpus of the fuzz targets, replayed. `WRITE_CORPUS=1 cargo test -p rsrepl-wire --test
//! corpus` makes the seeds anew: frames of a real server (`data/real-frames.hex`) and made ones, and
//! values of every type (`data/text-forms.tsv`). What the fuzzer finds is put beside them by hand.

mod support;

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Once;

use bytes::Bytes;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use rsrepl_wire::{
    Begin, Column, Encoding, Frame, FrameWriter, Lsn, Message, Relation, ReplicaIdentity, Row,
    RowShape, StreamAbort, StreamCommit, StreamPlace, Value, text,
};
use support::{forms, harness, plan};

/// Bytes of the largest seed: small ones are mutated faster.
const SEED_MAX: usize = 4096;

/// Columns in a made frame with values of many types.
const TYPES_PER_FRAME: usize = 12;

fn corpus(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

fn real_frames() -> Vec<Vec<u8>> {
    include_str!("data/real-frames.hex").lines().map(forms::unhex).collect()
}

fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    static WRITTEN: Once = Once::new();
    if std::env::var_os("WRITE_CORPUS").is_some() {
        WRITTEN.call_once(write_corpus);
    }
    let mut seeds: Vec<_> = fs::read_dir(corpus(target))
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    seeds.sort();
    seeds
}

/// All types of the table of forms, some in each frame, with the first value of each.
fn frames_of_values() -> Vec<Vec<u8>> {
    let mut seen = HashSet::new();
    let columns: Vec<_> = forms::cases()
        .into_iter()
        .filter(|case| seen.insert(case.type_name.clone()))
        .map(|case| match case.native {
            Some((encoding, native)) => (Column { encoding, ..case.column }, native),
            None => (case.column, case.send),
        })
        .collect();
    columns.chunks(TYPES_PER_FRAME).map(frame_of).collect()
}

fn frame_of(values: &[(Column, Vec<u8>)]) -> Vec<u8> {
    let relation = Relation {
        oid: 16_384,
        schema: "public".into(),
        name: "t".into(),
        replica_identity: ReplicaIdentity::Default,
        columns: (1..)
            .zip(values)
            .map(|(number, (column, _))| Column { number, ..column.clone() })
            .collect(),
    };
    let mut writer = FrameWriter::new();
    writer.start(Lsn(0x16_B374_D848), 0);
    writer.relation(&relation);
    let shape = RowShape { columns: values.len(), nulls: true, unchanged: false };
    writer.insert(Lsn(0x16_B374_D848), relation.oid, shape, |row| {
        for (column, value) in values {
            match column.encoding {
                Encoding::Fixed(_) => row.fixed(value),
                _ => row.variable(value),
            }
        }
    });
    writer.finish().to_vec()
}

/// Frames of random shape, the same each time.
fn made_frames() -> Vec<Vec<u8>> {
    let mut runner = TestRunner::deterministic();
    let mut writer = FrameWriter::new();
    (0..40)
        .map(|_| plan::frame().new_tree(&mut runner).unwrap().current().write(&mut writer))
        .filter(|frame| frame.len() <= SEED_MAX)
        .take(20)
        .collect()
}

/// The three kinds of frames of a transaction in progress.
fn streamed_frames() -> Vec<Vec<u8>> {
    let mut writer = FrameWriter::new();
    let mut frame = |write: &dyn Fn(&mut FrameWriter)| {
        writer.start_stream(Lsn(0x16_B374_D848), 799);
        write(&mut writer);
        writer.finish().to_vec()
    };
    let begin = Begin {
        xid: 799,
        final_lsn: Lsn(0x16_B374_F000),
        end_lsn: Lsn(0x16_B374_F030),
        commit_time: 0,
        origin: "o".into(),
    };
    let place = StreamPlace { frame: 70_000, offset: 4096 };
    let abort = StreamAbort { xid: 800, lsn: Lsn(0x16_B374_E000), place };
    vec![
        frame(&|writer| writer.truncate(Lsn(0x16_B374_D848), true, false, &[16_384])),
        frame(&|writer| writer.stream_abort(&abort)),
        frame(&|writer| writer.stream_commit(&StreamCommit { size: 74_100, begin: begin.clone() })),
    ]
}

fn write(target: &str, kind: &str, seeds: impl IntoIterator<Item = Vec<u8>>) {
    fs::create_dir_all(corpus(target)).unwrap();
    for (index, seed) in seeds.into_iter().filter(|seed| seed.len() <= SEED_MAX).enumerate() {
        fs::write(corpus(target).join(format!("{kind}-{index:03}")), seed).unwrap();
    }
}

/// The seeds that are made; the fuzzer's own finds stay as they are.
fn write_corpus() {
    write("frame", "real", real_frames());
    write("frame", "values", frames_of_values());
    write("frame", "made", made_frames());
    write("frame", "streamed", streamed_frames());
    // the first of each type in each form
    let mut seen = HashSet::new();
    let values = forms::cases().into_iter().flat_map(|case| {
        let native = case.native.map(|(encoding, native)| {
            harness::value_seed(&Column { encoding, ..case.column.clone() }, &native)
        });
        [Some(harness::value_seed(&case.column, &case.send)), native]
    });
    let first = |seed: &Vec<u8>| seen.insert(seed.first_chunk::<9>().copied());
    write("value", "form", values.flatten().filter(first));
}

#[test]
fn the_corpus_does_no_harm() {
    let (frames, values) = (seeds("frame"), seeds("value"));
    assert!(frames.len() > 30 && values.len() > 100, "{} {}", frames.len(), values.len());
    for (name, bytes) in &frames {
        println!("frame/{name}");
        harness::frame(bytes);
    }
    for (name, bytes) in &values {
        println!("value/{name}");
        harness::value(bytes);
    }
}

/// Every seed is a whole frame: a corpus that the decoder refuses at once would test nothing.
#[test]
fn the_seeds_of_frames_are_frames() {
    for (name, bytes) in seeds("frame") {
        if name.starts_with("real") || name.starts_with("values") || name.starts_with("made") {
            let frame = Frame::parse(Bytes::from(bytes)).expect(&name);
            assert!(frame.messages().all(|message| message.is_ok()), "{name}");
        }
    }
}

/// What a real server sends can be read to the last byte, and all of it has a text form here or is
/// text already.
#[test]
fn real_frames_are_read_whole() {
    let mut tables = std::collections::HashMap::new();
    let (mut rows, mut kinds) = (0, HashSet::new());
    for bytes in real_frames() {
        let frame = Frame::parse(Bytes::from(bytes)).unwrap();
        for message in frame.messages() {
            let message = message.unwrap();
            kinds.insert(std::mem::discriminant(&message));
            let changed = match &message {
                Message::Relation(relation) => {
                    tables.insert(relation.oid, relation.clone());
                    continue;
                }
                Message::Insert(insert) => vec![(insert.relation, &insert.new)],
                Message::Update(update) => update
                    .old
                    .iter()
                    .map(|old| &old.row)
                    .chain([&update.new])
                    .map(|row| (update.relation, row))
                    .collect(),
                Message::Delete(delete) => vec![(delete.relation, &delete.old.row)],
                _ => vec![],
            };
            for (oid, row) in changed {
                rows += 1;
                read_as_text(&tables[&oid], row);
            }
        }
    }
    assert_eq!(kinds.len(), 8, "every kind of message");
    assert!(rows > 25, "{rows}");
}

fn read_as_text(relation: &Relation, row: &Row) {
    for (value, column) in row.values(relation).unwrap().zip(&relation.columns) {
        if let Value::Data(value) = value.unwrap() {
            let mut out = Vec::new();
            // the one built-in type of the file whose send form is not worth a reader
            if column.type_name != "tsquery" {
                text::write(&mut out, column, value)
                    .unwrap_or_else(|error| panic!("{relation}.{}: {error}", column.name));
            }
        }
    }
}
