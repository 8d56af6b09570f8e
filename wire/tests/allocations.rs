//! Neither rows that are written nor rows that are read allocate: counted, not believed.

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use bytes::Bytes;
use rsrepl_wire::text::{self, Type, oid};
use rsrepl_wire::{
    Column, Encoding, Frame, FrameWriter, Lsn, Message, Relation, ReplicaIdentity, RowShape,
    TypeKind, Value,
};
use support::harness::column;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    // a thread that ends has no counter any more, and is not of interest
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: everything is passed on to the system's allocator as it came
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as promised by the caller
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as promised by the caller
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as promised by the caller
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations_of<T>(work: impl FnOnce() -> T) -> (usize, T) {
    let before = ALLOCATIONS.get();
    let result = work();
    (ALLOCATIONS.get() - before, result)
}

const ROWS: usize = 1000;

fn table() -> Relation {
    let of = |encoding, oid| {
        let ty = Type { oid, kind: TypeKind::Base, element_oid: 0, element_kind: TypeKind::Base };
        column(encoding, &ty)
    };
    let columns: Vec<Column> = vec![
        of(Encoding::Fixed(8), oid::INT8),
        of(Encoding::Varlena, oid::TEXT),
        of(Encoding::Fixed(8), oid::FLOAT8),
        of(Encoding::Numeric, oid::NUMERIC),
        of(Encoding::Fixed(8), oid::TIMESTAMPTZ),
        of(Encoding::Fixed(16), oid::INTERVAL),
        of(Encoding::Varlena, oid::TEXT),
        of(Encoding::Jsonb, oid::JSONB),
    ];
    Relation {
        oid: 1,
        schema: "s".into(),
        name: "t".into(),
        replica_identity: ReplicaIdentity::Default,
        columns: (1..).zip(columns).map(|(number, c)| Column { number, ..c }).collect(),
    }
}

fn write_rows(writer: &mut FrameWriter, table: &Relation) {
    writer.start(Lsn(1), 1);
    let shape = RowShape { columns: table.columns.len(), nulls: true, unchanged: false };
    for row in 0..ROWS {
        writer.insert(Lsn(1 + row as u64), table.oid, shape, |values| {
            values.fixed(&row.to_le_bytes());
            values.variable(b"some text");
            values.fixed(&(row as f64 / 7.0).to_le_bytes());
            values.variable(&[0x81, 0x80, 0x0C, 0, 0x88, 0x13]);
            values.fixed(&(row as i64 * 1_000_003).to_le_bytes());
            values.fixed(&[1; 16]);
            values.null();
            // [[]]
            values.variable(&[1, 0, 0, 0x40, 4, 0, 0, 0x50, 0, 0, 0, 0x40]);
        });
    }
    writer.finish();
}

#[test]
fn a_row_costs_no_allocation_on_either_side() {
    let table = table();
    let mut writer = FrameWriter::new();
    write_rows(&mut writer, &table); // the first frame takes the buffer
    let (written, ()) = allocations_of(|| write_rows(&mut writer, &table));
    assert_eq!(written, 0, "to write {ROWS} rows");

    let frame = Frame::parse(Bytes::copy_from_slice(writer.finish())).unwrap();
    let mut text = Vec::with_capacity(1024);
    let (read, values) = allocations_of(|| {
        let mut values = 0;
        for message in frame.messages() {
            let Ok(Message::Insert(insert)) = message else { panic!("{message:?}") };
            for (value, column) in insert.new.values(&table).unwrap().zip(&table.columns) {
                if let Value::Data(value) = value.unwrap() {
                    values += 1;
                    text.clear();
                    text::write(&mut text, column, value).unwrap();
                }
            }
        }
        values
    });
    assert_eq!(values, ROWS * 7);
    // the first clone of a `Bytes` makes its count of owners
    assert!(read <= 1, "{read} to read {ROWS} rows and write their values as text");
}
