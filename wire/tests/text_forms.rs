//! The text forms against what a real server wrote: `data/text-forms.tsv`, made by
//! `data/text-forms.sql`.

mod support;

use rsrepl_wire::limits::JSONB_DEPTH_MAX;
use rsrepl_wire::text::array::Array;
use rsrepl_wire::text::numeric::Numeric;
use rsrepl_wire::text::{self, Type, ValueError, oid};
use rsrepl_wire::{Column, Element, ElementEncoding, Encoding, TypeKind};
use support::forms::cases;
use support::harness;

fn column(encoding: Encoding, base_oid: u32, kind: TypeKind) -> Column {
    let ty = Type { oid: base_oid, kind, element_oid: 0, element_kind: TypeKind::Base };
    harness::column(encoding, &ty)
}

fn written(column: &Column, value: &[u8]) -> Result<String, ValueError> {
    let mut out = b"before ".to_vec();
    let result = text::write(&mut out, column, value);
    let out = String::from_utf8(out).expect("always UTF-8");
    let text = out.strip_prefix("before ").expect("only appends").to_owned();
    assert!(result.is_ok() || text.is_empty(), "an error leaves {text:?}");
    result.map(|()| text)
}

#[test]
fn every_form_reads_as_the_server_wrote_it() {
    let cases = cases();
    assert!(cases.len() > 1500, "{} cases", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        let mut check = |column: &Column, value: &[u8]| {
            assert!(text::is_supported(column), "{}", case.type_name);
            let found = written(column, value);
            if found.as_ref() != Ok(&case.text) {
                wrong.push(format!(
                    "line {}: {} {:?}: {found:?}, expected {:?}",
                    case.line, case.type_name, column.encoding, case.text
                ));
            }
        };
        check(&case.column, &case.send);
        if let Some((encoding, native)) = &case.native {
            check(&Column { encoding: *encoding, ..case.column.clone() }, native);
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn a_numeric_on_disk_is_sent_as_the_server_sends_it() {
    let mut seen = 0;
    for case in cases().iter().filter(|case| case.column.base_oid == oid::NUMERIC) {
        let (_, native) = case.native.as_ref().unwrap();
        let (mut from_disk, mut from_send) = (Vec::new(), Vec::new());
        Numeric::from_disk(native).unwrap().write_send(&mut from_disk);
        Numeric::from_send(&case.send).unwrap().write_send(&mut from_send);
        assert_eq!(from_disk, case.send, "{}", case.text);
        assert_eq!(from_send, case.send, "{}", case.text);
        seen += 1;
    }
    assert!(seen > 200, "{seen}");
}

/// A value cut anywhere is an error, or (where a type takes any bytes) a shorter value; it is never
/// a panic, and an error leaves nothing behind.
#[test]
fn a_cut_value_is_no_value() {
    for case in cases() {
        let any_bytes = matches!(case.column.base_oid, oid::BYTEA | oid::XML)
            || case.send.len() > 1000 // a cut numeric or text; thousands of cuts say no more
            || native_is_text(&case.column);
        for len in 0..case.send.len() {
            let found = written(&case.column, &case.send[..len]);
            assert!(found.is_err() || any_bytes, "line {}, {len} bytes: {found:?}", case.line);
        }
        let longer: Vec<u8> = case.send.iter().copied().chain([0]).collect();
        let found = written(&case.column, &longer);
        assert!(found.is_err() || any_bytes, "line {}, one more: {found:?}", case.line);
    }
}

/// Those that have parts are read to the last byte.
#[test]
fn a_cut_container_is_no_value() {
    let mut seen = 0;
    for case in cases() {
        let Some((encoding @ (Encoding::Jsonb | Encoding::Array(_)), native)) = &case.native else {
            continue;
        };
        if native.len() > 1000 {
            continue;
        }
        seen += 1;
        let column = Column { encoding: *encoding, ..case.column.clone() };
        // padding behind the last element says nothing
        let padding = matches!(encoding, Encoding::Array(_));
        for len in 0..native.len() {
            let found = written(&column, &native[..len]);
            let whole = padding && found.as_ref() == Ok(&case.text);
            assert!(found.is_err() || whole, "line {}, {len} bytes: {found:?}", case.line);
        }
        let longer: Vec<u8> = native.iter().copied().chain([0; 8]).collect();
        let found = written(&column, &longer);
        assert!(found.is_err(), "line {}, longer: {found:?}", case.line);
    }
    assert!(seen > 200, "{seen}");
}

#[test]
fn jsonb_may_be_deep_but_not_without_end() {
    // [[[…]]]: a header and an entry for each, the innermost empty
    let nested = |depth: usize| {
        let mut bytes = Vec::new();
        for inside in (1..depth).rev() {
            bytes.extend_from_slice(&(0x4000_0001_u32).to_le_bytes());
            bytes.extend_from_slice(&(0x5000_0000 | (inside * 8 - 4) as u32).to_le_bytes());
        }
        bytes.extend_from_slice(&0x4000_0000_u32.to_le_bytes());
        bytes
    };
    let column = column(Encoding::Jsonb, oid::JSONB, TypeKind::Base);
    for depth in [1, 2, 5, 6, 7, 20_000, JSONB_DEPTH_MAX] {
        let expected = "[".repeat(depth) + &"]".repeat(depth);
        assert_eq!(written(&column, &nested(depth)), Ok(expected), "{depth}");
    }
    assert!(written(&column, &nested(JSONB_DEPTH_MAX + 2)).is_err());
}

/// What no server writes, however near it comes.
#[test]
fn hostile_containers_are_refused() {
    let words = |words: &[u32]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
    let jsonb = column(Encoding::Jsonb, oid::JSONB, TypeKind::Base);
    for bad in [
        &[][..],
        &[0x1000_0001, 0x4000_0000], // a scalar that is no array
        &[0x5000_0002, 0x4000_0000, 0x4000_0000], // two scalars
        &[0x5000_0000],              // none
        &[0x6000_0001, 0x4000_0000], // object and array
        &[0x4FFF_FFFF],              // more entries than bytes
        &[0x2000_0001, 0x4000_0000, 0x4000_0000], // a key that is null
        &[0x4000_0001, 0x6000_0000], // an unknown type
        &[0x4000_0001, 0x4000_0004, 0], // a null with bytes
        &[0x4000_0002, 0x8000_0004, 0x8000_0002, 0], // an end before its beginning
        &[0x4000_0001, 0x5000_0008, 0x5000_0001, 0x4000_0000], // a scalar inside
        &[0x4000_0001, 0x1000_0004, 0x01], // a numeric that is out of line
    ] {
        let found = written(&jsonb, &words(bad));
        assert!(matches!(found, Err(ValueError::Malformed { .. })), "{bad:x?}: {found:?}");
    }
    let element = Element { encoding: ElementEncoding::Varlena, align: 4 };
    let ty = Type {
        oid: 1009,
        kind: TypeKind::Array,
        element_oid: oid::TEXT,
        element_kind: TypeKind::Base,
    };
    let texts = harness::column(Encoding::Array(element), &ty);
    assert_eq!(written(&texts, &words(&[1, 0, 25, 1, 1, 5 << 2, 0x61])), Ok("{a}".into()));
    for bad in [
        &[7, 0, 25, 1, 1, 1, 1, 1, 1, 1][..],  // dimensions
        &[1, 0, 25, u32::MAX, 1, 0],           // a negative one
        &[1, 0, 25, 1, i32::MAX as u32, 0, 0], // a bound out of range
        &[1, 0, 25, 100, 1, 0],                // more elements than bytes
        &[1, 8, 25, 1, 1, 20, 0],              // elements inside of the head
        &[1, 36, 25, 1, 1, 0, 0, 0, 20, 0],    // not aligned
        &[1, u32::MAX, 25, 1, 1, 20, 0],       // before the value
        &[1, 0x7FFF_FFF8, 25, 1, 1, 0xFF, 20], // behind it
        &[1, 0, 25, 1, 1, 5 << 2 | 2, 0x61],   // compressed
        &[1, 0, 25, 1, 1, 0x1201, 0, 0, 0, 0], // out of line
        &[1, 0, 25, 1, 1, 3 << 2, 0],          // shorter than its header
        &[1, 0, 25, 1, 1, 4 << 2, 0, 0],       // bytes left over
    ] {
        let found = written(&texts, &words(bad));
        assert!(matches!(found, Err(ValueError::Malformed { .. })), "{bad:x?}: {found:?}");
    }
}

fn native_is_text(column: &Column) -> bool {
    matches!(
        column.base_oid,
        oid::TEXT | oid::VARCHAR | oid::BPCHAR | oid::JSON | oid::NAME | oid::JSONB | oid::JSONPATH
    ) || column.kind == TypeKind::Enum
}

#[test]
fn flipped_bits_never_panic_and_never_leave_utf8() {
    for case in cases().iter().filter(|case| case.send.len() <= 200) {
        for bit in 0..case.send.len() * 8 {
            let mut bad = case.send.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let _ = written(&case.column, &bad);
        }
        if let Some((encoding, native)) = &case.native {
            let column = Column { encoding: *encoding, ..case.column.clone() };
            for bit in 0..native.len().min(200) * 8 {
                let mut bad = native.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                let _ = written(&column, &bad);
            }
        }
    }
}

#[test]
fn hostile_values_are_refused() {
    let refused = |encoding, base_oid, value: &[u8]| {
        let found = written(&column(encoding, base_oid, TypeKind::Base), value);
        assert!(matches!(found, Err(ValueError::Malformed { .. })), "{value:?}: {found:?}");
    };
    // numeric: a digit of 10000, half a digit, special values with digits or of no known kind
    refused(Encoding::Numeric, oid::NUMERIC, &[0, 0x80, 0x10, 0x27]);
    refused(Encoding::Numeric, oid::NUMERIC, &[0, 0x80, 1]);
    refused(Encoding::Numeric, oid::NUMERIC, &[0, 0xC0, 1, 0]);
    refused(Encoding::Numeric, oid::NUMERIC, &[0, 0xE0]);
    refused(Encoding::Numeric, oid::NUMERIC, &[]);
    // its send form with a scale past the limit, and a count that lies
    refused(Encoding::Send, oid::NUMERIC, &[0, 0, 0, 0, 0, 0, 0x40, 0]);
    refused(Encoding::Send, oid::NUMERIC, &[0xFF, 0xFF, 0, 0, 0, 0, 0, 0, 0, 1]);
    refused(Encoding::Fixed(4), oid::DATE, &(i32::MAX - 1).to_le_bytes());
    refused(Encoding::Fixed(8), oid::TIMESTAMP, &(i64::MAX - 1).to_le_bytes());
    refused(Encoding::Fixed(8), oid::TIME, &(-1i64).to_le_bytes());
    refused(Encoding::Fixed(8), oid::INT4, &[0; 8]);
    refused(Encoding::Fixed(4), oid::INT4, &[0; 5]);
    refused(Encoding::Varlena, oid::TEXT, &[0xFF]);
    refused(Encoding::Text, 99_999, &[0xC3]);
    // a bit string of 2^31 - 1 bits in no bytes
    refused(Encoding::Send, oid::VARBIT, &i32::MAX.to_be_bytes());
}

#[test]
fn an_array_with_more_elements_than_bytes_is_refused_before_any_work() {
    let mut head = Vec::new();
    for field in [6, 0, 23] {
        head.extend_from_slice(&i32::to_be_bytes(field));
    }
    for _ in 0..6 {
        head.extend_from_slice(&i32::MAX.to_be_bytes());
        head.extend_from_slice(&0i32.to_be_bytes());
    }
    assert!(matches!(Array::from_send(&head), Err(ValueError::Malformed { .. })));
}

#[test]
fn the_longest_numeric_of_few_bytes_stays_within_its_bound() {
    // weight 32767 and scale 16383 in six bytes
    let bytes = [0xFF, 0x3F, 0xFF, 0x7F, 1, 0];
    let text = written(&column(Encoding::Numeric, oid::NUMERIC, TypeKind::Base), &bytes).unwrap();
    assert_eq!(text.len(), 1 + 32_767 * 4 + 1 + 16_383);
}

#[test]
fn what_is_not_known_says_so() {
    for (encoding, base_oid, kind) in [
        (Encoding::Send, 99_999, TypeKind::Base),
        (Encoding::Fixed(4), 24, TypeKind::Base), // regproc: a name that only the source knows
        (Encoding::Send, 99_999, TypeKind::Range),
        (Encoding::Send, 2249, TypeKind::Composite),
    ] {
        let column = column(encoding, base_oid, kind);
        assert!(!text::is_supported(&column));
        let expected = Err(ValueError::Unsupported { type_oid: base_oid });
        assert_eq!(written(&column, &[0, 0, 0, 0]), expected);
    }
}

#[test]
fn infinite_intervals_are_those_of_postgresql_17() {
    let column = column(Encoding::Fixed(16), oid::INTERVAL, TypeKind::Base);
    let native = |micros: i64, days: i32, months: i32| {
        let mut bytes = micros.to_le_bytes().to_vec();
        bytes.extend_from_slice(&days.to_le_bytes());
        bytes.extend_from_slice(&months.to_le_bytes());
        bytes
    };
    assert_eq!(written(&column, &native(i64::MAX, i32::MAX, i32::MAX)).unwrap(), "infinity");
    assert_eq!(written(&column, &native(i64::MIN, i32::MIN, i32::MIN)).unwrap(), "-infinity");
    assert_eq!(
        written(&column, &native(i64::MIN, 0, 0)).unwrap(),
        "-2562047788:00:54.775808",
        "the least time that a valid interval may hold"
    );
}

#[test]
fn a_char_that_is_not_ascii_stays_utf8() {
    let column = column(Encoding::Fixed(1), oid::CHAR, TypeKind::Base);
    assert_eq!(written(&column, &[0xE4]).unwrap(), "\\344");
}
