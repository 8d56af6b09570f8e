//! Values of the wire in PostgreSQL's binary form, which COPY BINARY and parameters share.

use bytes::{BufMut, BytesMut};
use rsrepl_wire::text::array::Array;
use rsrepl_wire::text::jsonb;
use rsrepl_wire::text::numeric::Numeric;
use rsrepl_wire::{Column, Element, Encoding, TypeKind};

/// How the values of one column become their binary form; chosen once per table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    Plain(Plain),
    /// The result of `array_send`, with the element type of the source in its header.
    SentArray {
        /// `pg_type.oid` of the element type on the target.
        element_oid: u32,
    },
    /// An array as on disk.
    StoredArray {
        /// As above.
        element_oid: u32,
        /// How an element lies in it, and becomes its binary form.
        layout: Element,
        element: Plain,
    },
}

/// The codec of a value that has no elements, or of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plain {
    /// The bytes are the binary form already.
    Raw,
    /// Fields of these widths, each little-endian on the wire and big-endian in the binary form.
    Fields(&'static [u8]),
    /// `tid`: a block number stored as two halves, and an offset.
    Tid,
    /// `numeric` as on disk.
    Numeric,
    /// `jsonb` as on disk.
    Jsonb,
}

/// A value whose bytes do not have the shape that its column's encoding promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("value of {len} bytes is not a valid {what}")]
pub struct CodecError {
    pub what: &'static str,
    pub len: usize,
}

/// Types whose fixed-width values are one or more integers or floats, by `pg_type.oid`.
fn fields(base_oid: u32, width: u8) -> Option<&'static [u8]> {
    Some(match (base_oid, width) {
        (16 | 18, 1) => &[1],                        // bool, "char"
        (21, 2) => &[2],                             // int2
        (23 | 26 | 28 | 29 | 700 | 1082, 4) => &[4], // int4, oid, xid, cid, float4, date
        (24 | 2202..=2206 | 3734 | 3769 | 4089 | 4096 | 4191, 4) => &[4], // reg* types
        (20 | 701 | 790 | 1083 | 1114 | 1184 | 3220 | 5069, 8) => &[8], // int8, float8, money, time, timestamp(tz), pg_lsn, xid8
        (1186, 16) => &[8, 4, 4],         // interval: time, day, month
        (1266, 12) => &[8, 4],            // timetz: time, zone
        (600, 16) => &[8, 8],             // point
        (628 | 718, 24) => &[8, 8, 8],    // line, circle
        (601 | 603, 32) => &[8, 8, 8, 8], // lseg, box
        _ => return None,
    })
}

impl Codec {
    /// The codec of a column; `element_oid` is that of the target's type. `None` for a fixed-width
    /// encoding of a type that this sidecar does not know the fields of.
    pub fn new(column: &Column, element_oid: u32) -> Option<Codec> {
        Some(match column.encoding {
            Encoding::Send if column.kind == TypeKind::Array => Codec::SentArray { element_oid },
            Encoding::Array(layout) => Codec::StoredArray {
                element_oid,
                layout,
                element: Plain::new(layout.encoding.into(), column.element_oid)?,
            },
            encoding => Codec::Plain(Plain::new(encoding, column.base_oid)?),
        })
    }

    /// Appends the binary form of `data`.
    #[inline]
    pub fn put(self, data: &[u8], out: &mut BytesMut) -> Result<(), CodecError> {
        match self {
            Codec::Plain(plain) => plain.put(data, out),
            Codec::SentArray { element_oid } => put_sent_array(element_oid, data, out),
            Codec::StoredArray { element_oid, layout, element } => {
                put_stored_array(element_oid, layout, element, data, out)
            }
        }
    }
}

impl Plain {
    fn new(encoding: Encoding, base_oid: u32) -> Option<Plain> {
        Some(match encoding {
            Encoding::Fixed(width) => match (base_oid, width) {
                (2950, 16) | (829, 6) | (774, 8) => Plain::Raw, // uuid, macaddr, macaddr8
                (27, 6) => Plain::Tid,
                (base_oid, width) => Plain::Fields(fields(base_oid, width)?),
            },
            Encoding::Numeric => Plain::Numeric,
            Encoding::Jsonb => Plain::Jsonb,
            Encoding::Varlena | Encoding::Send | Encoding::Text => Plain::Raw,
            Encoding::Array(_) => return None,
        })
    }

    #[inline]
    fn put(self, data: &[u8], out: &mut BytesMut) -> Result<(), CodecError> {
        match self {
            Plain::Raw => out.put_slice(data),
            Plain::Fields(widths) => put_fields(widths, data, out)?,
            Plain::Tid => put_tid(data, out)?,
            Plain::Numeric => put_numeric(data, out)?,
            Plain::Jsonb => put_jsonb(data, out)?,
        }
        Ok(())
    }
}

fn put_fields(widths: &[u8], data: &[u8], out: &mut BytesMut) -> Result<(), CodecError> {
    let mut rest = data;
    for width in widths {
        let Some((field, tail)) = rest.split_at_checked(usize::from(*width)) else {
            return Err(CodecError { what: "fixed-width value", len: data.len() });
        };
        rest = tail;
        // the common widths as one store each
        if let Ok(field) = field.try_into() {
            out.put_u32(u32::from_le_bytes(field));
        } else if let Ok(field) = field.try_into() {
            out.put_u64(u64::from_le_bytes(field));
        } else {
            out.extend(field.iter().rev());
        }
    }
    match rest {
        [] => Ok(()),
        _ => Err(CodecError { what: "fixed-width value", len: data.len() }),
    }
}

fn put_tid(data: &[u8], out: &mut BytesMut) -> Result<(), CodecError> {
    let Ok(&[high_0, high_1, low_0, low_1, offset_0, offset_1]) = <&[u8; 6]>::try_from(data) else {
        return Err(CodecError { what: "tid", len: data.len() });
    };
    out.put_slice(&[high_1, high_0, low_1, low_0, offset_1, offset_0]);
    Ok(())
}

fn put_numeric(data: &[u8], out: &mut BytesMut) -> Result<(), CodecError> {
    let numeric = Numeric::from_disk(data);
    numeric.map_err(|_| CodecError { what: "numeric", len: data.len() })?.write_send(out);
    Ok(())
}

/// What `jsonb_recv` reads: a version, and text.
fn put_jsonb(data: &[u8], out: &mut BytesMut) -> Result<(), CodecError> {
    const VERSION: u8 = 1;
    out.put_u8(VERSION);
    jsonb::write(out, data).map_err(|_| CodecError { what: "jsonb", len: data.len() })
}

/// What `array_recv` reads: dimensions, flags, its own element type, bounds, and each element with its
/// length.
fn put_stored_array(
    element_oid: u32,
    layout: Element,
    element: Plain,
    data: &[u8],
    out: &mut BytesMut,
) -> Result<(), CodecError> {
    let invalid = |_| CodecError { what: "array", len: data.len() };
    let array = Array::from_disk(data, layout).map_err(invalid)?;
    out.put_u32(array.dimensions().len() as u32);
    out.put_u32(array.has_nulls().into());
    out.put_u32(element_oid);
    for dimension in array.dimensions() {
        out.put_u32(dimension.len);
        out.put_i32(dimension.lower_bound);
    }
    for value in array.elements() {
        let Some(value) = value.map_err(invalid)? else {
            out.put_i32(-1);
            continue;
        };
        let at = out.len();
        out.put_u32(0);
        element.put(value, out)?;
        let len = (out.len() - at - 4) as u32; // of a part of a frame
        if let Some(field) = out.get_mut(at..at + 4) {
            field.copy_from_slice(&len.to_be_bytes());
        }
    }
    Ok(())
}

/// `array_send`: dimensions, flags, element type, …; `array_recv` insists on its own element type.
fn put_sent_array(element_oid: u32, data: &[u8], out: &mut BytesMut) -> Result<(), CodecError> {
    const ELEMENT_TYPE_AT: usize = 8;
    match data.split_at_checked(ELEMENT_TYPE_AT) {
        Some((head, [_, _, _, _, rest @ ..])) => {
            out.put_slice(head);
            out.put_u32(element_oid);
            out.put_slice(rest);
            Ok(())
        }
        _ => Err(CodecError { what: "array", len: data.len() }),
    }
}

#[cfg(test)]
mod tests {
    use postgres_protocol::types;
    use proptest::prelude::*;
    use rsrepl_wire::ElementEncoding;

    use super::*;

    fn put(codec: Codec, data: &[u8]) -> Result<Vec<u8>, CodecError> {
        let mut out = BytesMut::new();
        codec.put(data, &mut out).map(|()| out.to_vec())
    }

    #[test]
    fn fields_are_swapped_one_by_one() {
        let interval = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
        let swapped = [8, 7, 6, 5, 4, 3, 2, 1, 12, 11, 10, 9, 16, 15, 14, 13];
        assert_eq!(put(Codec::Plain(Plain::Fields(&[8, 4, 4])), &interval), Ok(swapped.to_vec()));
        assert_eq!(put(Codec::Plain(Plain::Fields(&[2])), &[1, 2]), Ok(vec![2, 1]));
        assert_eq!(put(Codec::Plain(Plain::Fields(&[1])), &[7]), Ok(vec![7]));
        assert_eq!(put(Codec::Plain(Plain::Tid), &[1, 0, 2, 0, 3, 0]), Ok(vec![0, 1, 0, 2, 0, 3]));
        for short in [&[][..], &[1], &[1, 2, 3], &[1, 2, 3, 4, 5]] {
            assert!(put(Codec::Plain(Plain::Fields(&[4])), short).is_err());
            assert!(put(Codec::Plain(Plain::Tid), short).is_err());
        }
    }

    #[test]
    fn numerics_take_their_sent_form() {
        let wire = |words: &[u16]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<_>>();
        let sent = |words: &[u16]| words.iter().flat_map(|w| w.to_be_bytes()).collect::<Vec<_>>();
        // short: sign 0x2000, dscale << 7, weight; -12345.678 = -(1, 2345, 6780) with weight 1
        let short = 0x8000 | 0x2000 | (3 << 7) | 1;
        for (data, expected) in [
            (wire(&[short, 1, 2345, 6780]), sent(&[3, 1, 0x4000, 3, 1, 2345, 6780])),
            // 0.0001: weight -1
            (wire(&[0x8000 | (4 << 7) | 0x7F, 1]), sent(&[1, 0xFFFF, 0, 4, 1])),
            // zero with a scale
            (wire(&[0x8000 | (2 << 7)]), sent(&[0, 0, 0, 2])),
            // long: sign and dscale, weight
            (wire(&[0x4000 | 100, 200, 9]), sent(&[1, 200, 0x4000, 100, 9])),
            (wire(&[0xC000]), sent(&[0, 0, 0xC000, 0])),
            (wire(&[0xD000]), sent(&[0, 0, 0xD000, 0x20])),
            (wire(&[0xF000]), sent(&[0, 0, 0xF000, 0x20])),
        ] {
            assert_eq!(put(Codec::Plain(Plain::Numeric), &data), Ok(expected), "{data:x?}");
        }
        for bad in [&[][..], &[0x00], &[0x00, 0x00, 0x01], &[0x00, 0x80, 0x01]] {
            assert!(put(Codec::Plain(Plain::Numeric), bad).is_err(), "{bad:x?}");
        }
    }

    #[test]
    fn arrays_name_the_targets_element_type() {
        let mut sent = BytesMut::new();
        let dimension = types::ArrayDimension { len: 1, lower_bound: 1 };
        types::array_to_sql(
            [dimension],
            100_000,
            [7u8],
            |value, buf| {
                buf.put_u8(value);
                Ok(postgres_protocol::IsNull::No)
            },
            &mut sent,
        )
        .unwrap();
        let put = put(Codec::SentArray { element_oid: 200_000 }, &sent).unwrap();
        assert_eq!(types::array_from_sql(&put).unwrap().element_type(), 200_000);
        assert_eq!(put.len(), sent.len());
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_codec_panic(data: Vec<u8>) {
            for codec in [
                Codec::Plain(Plain::Raw),
                Codec::Plain(Plain::Fields(&[8, 4, 4])),
                Codec::Plain(Plain::Tid),
                Codec::Plain(Plain::Numeric),
                Codec::Plain(Plain::Jsonb),
                Codec::SentArray { element_oid: 1 },
                Codec::StoredArray {
                    element_oid: 1,
                    layout: Element { encoding: ElementEncoding::Varlena, align: 4 },
                    element: Plain::Raw,
                },
            ] {
                let _ = put(codec, &data);
            }
        }
    }
}
