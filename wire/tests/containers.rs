//! Properties of the values that hold others: jsonb and arrays as they are on disk.

mod support;

use std::sync::LazyLock;

use proptest::prelude::*;
use rsrepl_wire::text::{Type, oid};
use rsrepl_wire::{Column, Element, ElementEncoding, Encoding, TypeKind};
use support::{forms, harness};

/// Those that a real server stored.
static STORED: LazyLock<Vec<(Column, Vec<u8>)>> = LazyLock::new(|| {
    let stored = forms::cases().into_iter().filter_map(|case| {
        let (encoding, native) = case.native?;
        let container = matches!(encoding, Encoding::Jsonb | Encoding::Array(_));
        container.then_some((Column { encoding, ..case.column }, native))
    });
    stored.collect()
});

fn jsonb() -> Column {
    let ty = Type::from(&STORED.iter().find(|(c, _)| c.base_oid == oid::JSONB).unwrap().0);
    harness::column(Encoding::Jsonb, &ty)
}

fn array() -> impl Strategy<Value = Column> {
    let element = prop_oneof![
        (1..=16u8).prop_map(ElementEncoding::Fixed),
        Just(ElementEncoding::Varlena),
        Just(ElementEncoding::Numeric),
        Just(ElementEncoding::Jsonb),
    ];
    (element, 0..4u32).prop_map(|(encoding, power)| {
        let ty = Type {
            oid: 1009,
            kind: TypeKind::Array,
            element_oid: oid::INT4,
            element_kind: TypeKind::Base,
        };
        harness::column(Encoding::Array(Element { encoding, align: 1 << power }), &ty)
    })
}

/// Headers and entries as they may be, and anything.
fn jsonb_words() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        (0..4u32, 1..8u32).prop_map(|(count, kind)| kind << 28 | count),
        (0..24u32, 0..16u32).prop_map(|(length, kind)| kind << 28 | length),
        0..64u32,
        any::<u32>(),
    ];
    words(word)
}

/// Dimensions, lengths, headers of elements, and anything.
fn array_words() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![4 => 0..4u32, 2 => (4..12u32).prop_map(|len| len << 2), 1 => 0..256u32,
        1 => any::<u32>()];
    words(word)
}

fn words(word: impl Strategy<Value = u32>) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(word, 0..24)
        .prop_map(|words| words.iter().flat_map(|word| word.to_le_bytes()).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn damage_to_a_stored_value_does_no_harm(
        which in any::<prop::sample::Index>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        len in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        let (column, mut value) = which.get(&STORED).clone();
        for (at, byte) in damage {
            let at = at.index(value.len());
            value[at] = byte;
        }
        if cut {
            value.truncate(len.index(value.len()));
        }
        harness::read_value(&column, &value);
    }

    #[test]
    fn words_that_look_like_jsonb_do_no_harm(value in jsonb_words()) {
        harness::read_value(&jsonb(), &value);
    }

    #[test]
    fn words_that_look_like_an_array_do_no_harm(column in array(), value in array_words()) {
        harness::read_value(&column, &value);
    }
}
