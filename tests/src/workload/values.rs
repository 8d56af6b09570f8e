//! Literals: one in three is an edge case.

use fastrand::Rng;

use super::schema::Type;

/// A random SQL literal or expression of a type, sometimes NULL.
pub fn literal(rng: &mut Rng, type_: Type) -> String {
    if rng.u32(0..12) == 0 { "NULL".to_owned() } else { not_null(rng, type_) }
}

/// The same, never NULL.
pub fn not_null(rng: &mut Rng, type_: Type) -> String {
    if let Type::Array(element) = type_ {
        return array(rng, *element);
    }
    if type_ == Type::LongText {
        return long_text(rng);
    }
    if type_ == Type::Numeric && rng.u32(0..300) == 0 {
        return quote(if rng.bool() { "1e131071" } else { "1e-16383" });
    }
    let edges = edges(type_);
    if !edges.is_empty() && rng.u32(0..3) == 0 {
        return quote(edges[rng.usize(0..edges.len())]);
    }
    match type_ {
        Type::Timestamp | Type::TimestampTz => format!(
            "'epoch'::{} + {} * interval '1 microsecond'",
            type_.sql(),
            rng.i64(-2_000_000_000_000_000..8_000_000_000_000_000)
        ),
        Type::Bytea if rng.u32(0..8) == 0 => format!("decode({}, 'hex')", noise(rng, 400)),
        _ => quote(&plain(rng, type_)),
    }
}

/// The literal of a key: row `number` of its table. Always the same value, though an equal one may look
/// otherwise (1.0 and 1.00 are one key).
pub fn key(rng: &mut Rng, type_: Type, number: u64) -> String {
    match type_ {
        Type::Uuid => format!("'00000000-0000-4000-8000-{number:012x}'"),
        Type::Varchar | Type::Text => format!("'key {number} é'"),
        Type::Char => format!("'k{number}'"),
        Type::Numeric => format!("{number}.{:0<1$}", 5, rng.usize(1..4)),
        Type::Array(_) => format!("'[{0}:{1}]={{{number},NULL}}'", number % 2, number % 2 + 1),
        Type::Range => format!("'[{number},{})'", number + 1),
        Type::Pair => format!("'({number},\"a, {number}\")'::pair"),
        Type::Mood => quote(["sad", "ok", "it's \"odd\" \\ really"][number as usize % 3]),
        Type::Domain => (number + 1).to_string(),
        _ => number.to_string(),
    }
}

fn edges(type_: Type) -> &'static [&'static str] {
    match type_ {
        Type::Bool => &["true", "false"],
        Type::Int2 => &["-32768", "32767", "0", "-1"],
        Type::Int4 => &["-2147483648", "2147483647", "0", "-1"],
        Type::Int8 => &["-9223372036854775808", "9223372036854775807", "0", "-1"],
        Type::Float4 => {
            &["NaN", "Infinity", "-Infinity", "-0", "0", "1e-45", "3.4028235e38", "0.1"]
        }
        Type::Float8 => {
            &["NaN", "Infinity", "-Infinity", "-0", "0", "5e-324", "1.7976931348623157e308", "0.1"]
        }
        Type::Numeric => &[
            "NaN",
            "Infinity",
            "-Infinity",
            "0",
            "0.000",
            "-0.1",
            "1e-1000",
            "1e1000",
            "9999",
            "10000",
            "0.0001",
            "0.00001",
            "123456789012345678901234567890.123456789",
            "-10000.0000",
            "1.10",
            "1.1",
            "1.100000000000000000000000000000000000000001",
        ],
        Type::Decimal(12, 2) => &["NaN", "0", "-0.01", "9999999999.99", "-9999999999.99", "1.10"],
        Type::Decimal(..) => &["NaN", "0", "-1", "123456789012345678901234567890", "10000"],
        Type::Text => &[
            "",
            " ",
            "NULL",
            "\\N",
            "it's",
            "tab\tnew\nline\r",
            "\u{1}\u{7f}",
            "日本語 🦀",
            "\\",
            "{}",
            "\"q\"",
        ],
        Type::Varchar => &["", " ", "trailing  ", "é", "it's \\ \" odd"],
        Type::Char => &["", "a", "a b", "日本", "0123456789"],
        Type::Name => &["", "pg_class", "a name with spaces"],
        Type::Bytea => &["\\x", "\\x00", "\\xff00ff", "\\x5c78"],
        Type::Date => &[
            "infinity",
            "-infinity",
            "0001-01-01 BC",
            "4714-11-24 BC",
            "5874897-12-31",
            "1970-01-01",
            "1969-12-31",
            "2149-06-07",
            "0001-01-01",
            "9999-12-31",
            "10000-01-01",
            "2000-02-29",
        ],
        Type::Time => &["00:00:00", "24:00:00", "23:59:59.999999", "00:00:00.000001"],
        Type::TimeTz => {
            &["00:00:00+00", "24:00:00-15:59", "23:59:59.999999+15:59:59", "12:00:00-05:30"]
        }
        Type::Timestamp => &[
            "infinity",
            "-infinity",
            "4714-11-24 00:00:00 BC",
            "294276-12-31 23:59:59.999999",
            "1969-12-31 23:59:59.999999",
            "1970-01-01 00:00:00",
            "0001-01-01 00:00:00",
            "9999-12-31 23:59:59.999999",
            "10000-01-01 00:00:00",
            "0044-03-15 12:00:00 BC",
        ],
        Type::TimestampTz => &[
            "infinity",
            "-infinity",
            "4714-11-24 00:00:00+00 BC",
            "294276-12-31 23:59:59.999999+00",
            "1969-12-31 23:59:59.999999+00",
            "2000-01-01 00:00:00+00",
            "0001-01-01 00:00:00+00",
            "9999-12-31 23:59:59.999999+00",
            "10000-01-01 00:00:00+00",
        ],
        Type::Interval => &[
            "0",
            "1 mon -1 day 02:03:04.000005",
            "-178000000 years",
            "178000000 years",
            "-1 mon",
            "24:00:00",
            "1 day",
            "-00:00:00.000001",
        ],
        Type::Json => &[
            "{}",
            "[]",
            "null",
            "1",
            "\"s\"",
            "{\"a\": 1,  \"a\":2}",
            "[1, 2.50, {\"x\": null}]",
            " 1.0 ",
        ],
        Type::Jsonb => &[
            "{}",
            "[]",
            "null",
            "1e400",
            "\"s\"",
            "{\"a\": {\"b\": [1, 2.50, null, true]}}",
            "{\"\": \"é🦀\"}",
        ],
        Type::Mood => &["sad", "ok", "it's \"odd\" \\ really"],
        Type::Inet => {
            &["127.0.0.1", "10.1.2.3/8", "::1", "fe80::1/64", "0.0.0.0/0", "::ffff:1.2.3.4"]
        }
        Type::Cidr => &["10.0.0.0/8", "0.0.0.0/0", "::/0", "2001:db8::/32", "192.168.0.1/32"],
        Type::MacAddr => &["00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "08:00:2b:01:02:03"],
        Type::Bit => &["000000000000", "111111111111", "100000000001"],
        Type::VarBit => {
            &["", "1", "0", "10101010", "101010101", "1111111111111111111111111111111111111111"]
        }
        Type::Point => &["(0,0)", "(NaN,Infinity)", "(-0,1e300)", "(1.5,-2.5)"],
        Type::Range => &["empty", "(,)", "[1,10)", "[,5)", "[2147483646,)"],
        Type::Pair => &["(,)", "(1,)", "(1,\"a b\")", "(-1,\"\"\"q\"\"\")", "(,\"\")"],
        Type::Domain => &["1", "2147483647"],
        Type::Uuid => {
            &["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"]
        }
        Type::LongText | Type::Array(_) => &[],
    }
}

/// A value without surprises.
fn plain(rng: &mut Rng, type_: Type) -> String {
    match type_ {
        Type::Bool => rng.bool().to_string(),
        Type::Int2 => rng.i16(..).to_string(),
        Type::Int4 => rng.i32(..).to_string(),
        Type::Int8 => rng.i64(..).to_string(),
        Type::Float4 => float(f64::from(f32::from_bits(rng.u32(..))), || {
            format!("{:e}", f32::from_bits(0x3f9d_70a4))
        }),
        Type::Float8 => float(f64::from_bits(rng.u64(..)), || "1.5".to_owned()),
        Type::Numeric => {
            let scale = rng.usize(0..30);
            let digits: String = (0..=rng.usize(0..30)).map(|_| rng.digit(10)).collect();
            let sign = if rng.bool() { "-" } else { "" };
            let fraction: String = (0..scale).map(|_| rng.digit(10)).collect();
            if scale == 0 {
                format!("{sign}{digits}")
            } else {
                format!("{sign}{digits}.{fraction}")
            }
        }
        Type::Decimal(12, 2) => {
            format!("{}.{:02}", rng.i64(-9_999_999_999..9_999_999_999), rng.u32(0..100))
        }
        Type::Decimal(_, 0) => rng.i64(..).to_string(),
        Type::Decimal(..) => format!("{}.{:020}", rng.i64(..), rng.u64(..) % 10_u64.pow(19)),
        Type::Text | Type::LongText => words(rng, 60),
        Type::Varchar => words(rng, 8),
        Type::Char | Type::Name => words(rng, 2).chars().take(10).collect(),
        Type::Bytea => format!("\\x{:032x}", rng.u128(..)),
        Type::Date => {
            format!("{:04}-{:02}-{:02}", rng.u32(1900..2299), rng.u32(1..13), rng.u32(1..29))
        }
        Type::Time => clock(rng),
        Type::TimeTz => format!("{}{:+03}:{:02}", clock(rng), rng.i32(-14..15), rng.u32(0..60)),
        Type::Interval => format!(
            "{} mons {} days {} microseconds",
            rng.i32(-5000..5000),
            rng.i32(-9999..9999),
            rng.i64(-90_000_000_000..90_000_000_000)
        ),
        Type::Uuid => format!("{:032x}", rng.u128(..)),
        Type::Json => format!("{{\"k\" : {},\"w\":\"{}\"}}", rng.i32(..), words(rng, 5)),
        Type::Jsonb => {
            format!("{{\"k\": [{}.50, true], \"w\": \"{}\"}}", rng.i32(..), words(rng, 5))
        }
        Type::Inet => format!("{}.{}.{}.{}", rng.u8(..), rng.u8(..), rng.u8(..), rng.u8(..)),
        Type::Cidr => format!("{}.{}.0.0/16", rng.u8(..), rng.u8(..)),
        Type::MacAddr => {
            format!("08:00:2b:{:02x}:{:02x}:{:02x}", rng.u8(..), rng.u8(..), rng.u8(..))
        }
        Type::Bit => format!("{:012b}", rng.u16(0..4096)),
        Type::VarBit => format!("{:b}", rng.u32(..)),
        Type::Point => format!("({},{})", rng.i32(..), rng.f64()),
        Type::Range => format!("[{},{})", rng.i32(-100..0), rng.i32(0..100)),
        Type::Pair => format!("({},w)", rng.i32(..)),
        Type::Domain => rng.i32(1..).to_string(),
        Type::Mood => "ok".to_owned(),
        Type::Timestamp | Type::TimestampTz | Type::Array(_) => unreachable!("made by not_null"),
    }
}

/// A finite number's shortest text; bits that are none give `otherwise`.
fn float(value: f64, otherwise: impl FnOnce() -> String) -> String {
    // A subnormal real may be rounded to zero on input, which PostgreSQL refuses.
    if value.is_finite() && value.abs() > 1.2e-38 { format!("{value:e}") } else { otherwise() }
}

fn clock(rng: &mut Rng) -> String {
    let micros = rng.u32(0..1_000_000);
    format!("{:02}:{:02}:{:02}.{micros:06}", rng.u32(0..24), rng.u32(0..60), rng.u32(0..60))
}

fn words(rng: &mut Rng, most: usize) -> String {
    const WORDS: [&str; 8] = ["a", "lé", "wal", "slot", "日", "x_y", "Z", "9"];
    let count = rng.usize(1..=most.max(1));
    (0..count).map(|_| WORDS[rng.usize(0..WORDS.len())]).collect::<Vec<_>>().concat()
}

/// An expression for text that does not compress: 32 bytes for each of `lines`.
fn noise(rng: &mut Rng, lines: u32) -> String {
    let seed = rng.u32(..);
    format!("(SELECT string_agg(md5('{seed}' || i), '') FROM generate_series(1, {lines}) i)")
}

/// Text of all the ways of storage: out of line, compressed and out of line, compressed inline, short.
fn long_text(rng: &mut Rng) -> String {
    match rng.u32(0..20) {
        0..9 => {
            let lines = rng.u32(270..600);
            noise(rng, lines)
        }
        9 => noise(rng, 4_000),
        10..15 => format!("repeat({}, {})", quote(&words(rng, 5)), rng.u32(2_000..9_000)),
        _ => quote(&words(rng, 20)),
    }
}

fn array(rng: &mut Rng, element: Type) -> String {
    let sql = element.sql();
    match rng.u32(0..10) {
        0 => format!("'{{}}'::{sql}[]"),
        1 => format!("'{{NULL}}'::{sql}[]"),
        _ => {
            let count = rng.usize(1..6);
            let elements: Vec<String> = (0..count).map(|_| literal(rng, element)).collect();
            format!("ARRAY[{}]::{sql}[]", elements.join(", "))
        }
    }
}

/// A string literal.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
