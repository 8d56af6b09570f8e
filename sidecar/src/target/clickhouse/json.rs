//! Whether ClickHouse's type JSON gives back the object that it is given.
//!
//! It keeps objects by the paths in them, with a type for each, and arrays with one type for all of their
//! elements where it finds one: so a key with a point in it would become a path, large numbers become
//! floats, and booleans numbers or strings. Members that are null, or an empty object, are not kept, and
//! read as NULL: that is what the type is, and not looked for here.

/// Integers up to here are floats too.
const FLOAT_EXACT: u64 = 1 << 53;

/// The server refuses what is nested twice as deep.
const DEPTH_MAX: u32 = 500;

/// Why a text of JSON, which PostgreSQL wrote, would come back as another.
pub(super) fn fits(text: &[u8]) -> Result<(), &'static str> {
    let mut scan = Scan { rest: text, depth: 0 };
    if scan.peek() != Some(b'{') {
        return Err("no object");
    }
    scan.value().map(|_| ())
}

/// What there is in an array and in the arrays inside of it.
#[derive(Clone, Copy, Default)]
struct Kinds {
    boolean: bool,
    number: bool,
    string: bool,
    float: bool,
    /// An integer past [`FLOAT_EXACT`].
    large: bool,
}

impl Kinds {
    fn and(self, other: Kinds) -> Kinds {
        Kinds {
            boolean: self.boolean | other.boolean,
            number: self.number | other.number,
            string: self.string | other.string,
            float: self.float | other.float,
            large: self.large | other.large,
        }
    }

    fn check(self) -> Result<Kinds, &'static str> {
        if self.boolean && (self.number || self.string) {
            return Err("an object with an array of booleans and others");
        }
        if self.float && self.large {
            return Err("an object with an array of fractions and large integers");
        }
        Ok(self)
    }
}

struct Scan<'a> {
    rest: &'a [u8],
    /// Objects and arrays around the next value.
    depth: u32,
}

impl<'a> Scan<'a> {
    fn peek(&mut self) -> Option<u8> {
        self.rest = self.rest.trim_ascii_start();
        self.rest.first().copied()
    }

    fn skip(&mut self) {
        self.rest = self.rest.get(1..).unwrap_or_default();
    }

    fn value(&mut self) -> Result<Kinds, &'static str> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err("an object that is nested too deep");
        }
        let kinds = match self.peek() {
            Some(b'{') => {
                self.members()?;
                Kinds::default()
            }
            Some(b'[') => self.elements()?,
            Some(b'"') => {
                self.string();
                Kinds { string: true, ..Kinds::default() }
            }
            Some(b't' | b'f') => {
                self.word();
                Kinds { boolean: true, ..Kinds::default() }
            }
            Some(b'n') => {
                self.word();
                Kinds::default()
            }
            _ => number(self.word())?,
        };
        self.depth -= 1;
        Ok(kinds)
    }

    fn members(&mut self) -> Result<(), &'static str> {
        self.skip();
        loop {
            match self.peek() {
                None => return Ok(()),
                Some(b'}') => {
                    self.skip();
                    return Ok(());
                }
                Some(b',') => self.skip(),
                Some(_) => {
                    if self.string().contains(&b'.') {
                        return Err("an object with a point in a key");
                    }
                    if self.peek() == Some(b':') {
                        self.skip();
                    }
                    self.value()?;
                }
            }
        }
    }

    fn elements(&mut self) -> Result<Kinds, &'static str> {
        self.skip();
        let mut kinds = Kinds::default();
        loop {
            match self.peek() {
                None => return Ok(kinds),
                Some(b']') => {
                    self.skip();
                    return Ok(kinds);
                }
                Some(b',') => self.skip(),
                Some(_) => kinds = kinds.and(self.value()?).check()?,
            }
        }
    }

    /// With its escapes.
    fn string(&mut self) -> &'a [u8] {
        self.skip();
        let mut escaped = false;
        let end = self.rest.iter().position(|byte| {
            let ends = *byte == b'"' && !escaped;
            escaped = *byte == b'\\' && !escaped;
            ends
        });
        let (string, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        self.skip();
        string
    }

    /// Up to what ends a number or a literal; at least a byte.
    fn word(&mut self) -> &'a [u8] {
        let end = self.rest.iter().skip(1).position(|b| matches!(b, b',' | b']' | b'}' | b' '));
        let (word, rest) = self.rest.split_at(end.map_or(self.rest.len(), |end| end + 1));
        self.rest = rest;
        word
    }
}

/// Integers of 64 bits, and what is a float exactly.
fn number(text: &[u8]) -> Result<Kinds, &'static str> {
    const INEXACT: &str = "an object with a number that neither 64 bits nor a Float64 hold exactly";
    let number = Kinds { number: true, ..Kinds::default() };
    let text = str::from_utf8(text).map_err(|_| INEXACT)?;
    let magnitude = text.strip_prefix('-').unwrap_or(text);
    if magnitude.bytes().all(|byte| byte.is_ascii_digit()) {
        let value: i128 = text.parse().map_err(|_| INEXACT)?;
        if i64::try_from(value).is_err() && u64::try_from(value).is_err() {
            return Err(INEXACT);
        }
        return Ok(Kinds { large: value.unsigned_abs() > FLOAT_EXACT.into(), ..number });
    }
    let value: f64 = text.parse().map_err(|_| INEXACT)?;
    let exact = value.is_finite() && same_digits(magnitude, value.abs());
    if exact { Ok(Kinds { float: true, ..number }) } else { Err(INEXACT) }
}

/// Whether a decimal number is what the shortest text of a float says; nothing is allocated.
fn same_digits(text: &str, float: f64) -> bool {
    use std::io::Write;
    let mut shortest = [0; 32];
    let mut left = &mut shortest[..];
    if write!(left, "{float:e}").is_err() {
        return false;
    }
    let unused = left.len();
    let shortest = shortest.get(..32 - unused).unwrap_or_default();
    let (text, shortest) = (Digits::of(text.as_bytes()), Digits::of(shortest));
    text.exponent() == shortest.exponent() && text.digits().eq(shortest.digits())
}

/// A decimal number, maybe with a point and an exponent.
struct Digits<'a> {
    mantissa: &'a [u8],
    exponent: i64,
}

impl<'a> Digits<'a> {
    fn of(text: &'a [u8]) -> Self {
        let at = text.iter().position(|byte| matches!(byte, b'e' | b'E')).unwrap_or(text.len());
        let (mantissa, exponent) = text.split_at(at);
        let exponent = exponent.get(1..).and_then(|e| str::from_utf8(e).ok()?.parse().ok());
        Digits { mantissa, exponent: exponent.unwrap_or(0) }
    }

    fn all(&self) -> impl DoubleEndedIterator<Item = u8> {
        self.mantissa.iter().copied().filter(|byte| *byte != b'.')
    }

    /// Without zeros on either side.
    fn digits(&self) -> impl Iterator<Item = u8> {
        let zeros = self.all().rev().take_while(|digit| *digit == b'0').count();
        let len = self.all().count() - zeros;
        self.all().take(len).skip_while(|digit| *digit == b'0')
    }

    /// Of the first digit that is no zero.
    fn exponent(&self) -> i64 {
        let point = self.mantissa.iter().position(|byte| *byte == b'.');
        let whole = point.unwrap_or(self.mantissa.len()) as i64;
        let zeros = self.all().take_while(|digit| *digit == b'0').count() as i64;
        let is_zero = self.digits().next().is_none();
        if is_zero { 0 } else { self.exponent + whole - zeros }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_back_as_it_was() {
        for text in [
            "{}",
            r#"{"a": 1, "b": [1, "x", null, {"c": [true, false]}], "d": {"e": "f.g \" } ] \\"}}"#,
            r#"{"a": 18446744073709551615, "b": -9223372036854775808}"#,
            r#"{"a": 0.10, "b": 1.0, "c": 100.50, "d": 0.000001, "e": 0.0, "f": -2.5}"#,
            r#"{"a": [9007199254740993, 1], "b": [0.5, 1]}"#,
            r#"{"a": [9007199254740993, {"x": 0.5}], "b": [true, {"x": 1}]}"#,
            r#"{"a": 15000000000000000000000000000000000000000.0}"#,
        ] {
            assert_eq!(fits(text.as_bytes()), Ok(()), "{text}");
        }
    }

    #[test]
    fn what_would_not() {
        for text in [
            "1",
            "[]",
            "null",
            "\"{\"",
            r#"{"a.b": 1}"#,
            r#"{"x": {"a\"b.": 1}}"#,
            r#"{"a": 18446744073709551616}"#,
            r#"{"a": [[-9223372036854775809]]}"#,
            r#"{"a": 0.1000000000000000055511151231257827}"#,
            r#"{"a": [true, 1]}"#,
            r#"{"a": [[true], ["x"]]}"#,
            r#"{"a": [9007199254740993, 0.5]}"#,
            r#"{"a": [[9007199254740993], [0.5]]}"#,
        ] {
            assert!(fits(text.as_bytes()).is_err(), "{text}");
        }
        assert!(fits(format!("{{\"a\": {}", "[".repeat(1_000_000)).as_bytes()).is_err());
        assert!(fits(format!("{{\"a\": 1{}.0}}", "0".repeat(400)).as_bytes()).is_err());
    }

    #[test]
    fn what_is_no_json_does_no_harm() {
        for text in ["{", "{\"", "{\"a", "{\"a\":", "{\"a\": [", "{]}", "{\"a\" 1}", "{\"a\": \"\\"]
        {
            let _ = fits(text.as_bytes());
        }
    }
}
