//! How a value in the file, or its text from the environment, becomes a setting.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;

use super::{
    Compression, Confirm, Consistency, InvalidText, LogFormat, MissingRows, Mode, Streaming,
};
use crate::redact::Secret;
use crate::schema::Policy;
use crate::target::clickhouse::{ChosenType, Unrepresentable};

/// The largest duration that a setting may have: 100 days, far from every overflow.
const DURATION_MAX: Duration = Duration::from_secs(100 * 24 * 3600);

/// A type of setting. Whatever is not text may also be written as text, because values from the
/// environment are text.
pub(super) trait Setting: Sized {
    /// Completes "expected …".
    const EXPECTED: &'static str;

    /// `None`: not what is expected.
    fn read(value: &Value) -> Option<Self>;
}

impl Setting for String {
    const EXPECTED: &'static str = "a text";

    fn read(value: &Value) -> Option<Self> {
        value.as_str().map(str::to_owned)
    }
}

impl Setting for Secret {
    const EXPECTED: &'static str = "a text";

    fn read(value: &Value) -> Option<Self> {
        value.as_str().map(Secret::new)
    }
}

/// One name or several: a list, or a text with commas between them.
pub(super) struct Names(pub Vec<String>);

impl Setting for Names {
    const EXPECTED: &'static str = "a name or a list of names";

    fn read(value: &Value) -> Option<Self> {
        let names: Vec<String> = match value {
            Value::String(text) if text.trim().is_empty() => Vec::new(),
            Value::String(text) => text.split(',').map(|name| name.trim().to_owned()).collect(),
            Value::Array(items) => items.iter().map(String::read).collect::<Option<_>>()?,
            _ => return None,
        };
        (!names.iter().any(String::is_empty)).then_some(Names(names))
    }
}

impl Setting for bool {
    const EXPECTED: &'static str = "true or false";

    fn read(value: &Value) -> Option<Self> {
        match value {
            Value::Bool(flag) => Some(*flag),
            Value::String(text) => text.parse().ok(),
            _ => None,
        }
    }
}

impl Setting for Confirm {
    const EXPECTED: &'static str = "\"applied\" or \"spooled\"";

    fn read(value: &Value) -> Option<Self> {
        match value.as_str()? {
            "applied" => Some(Confirm::Applied),
            "spooled" => Some(Confirm::Spooled),
            _ => None,
        }
    }
}

impl Setting for Streaming {
    const EXPECTED: &'static str = "\"auto\", true or false";

    fn read(value: &Value) -> Option<Self> {
        match value {
            Value::String(text) if text == "auto" => Some(Streaming::Auto),
            _ => bool::read(value).map(|on| if on { Streaming::On } else { Streaming::Off }),
        }
    }
}

impl Setting for u64 {
    const EXPECTED: &'static str = "a whole number";

    fn read(value: &Value) -> Option<Self> {
        match value {
            Value::Number(number) => number.as_u64(),
            // a tool's habit: 10_000
            Value::String(text) => text.replace('_', "").parse().ok(),
            _ => None,
        }
    }
}

impl Setting for usize {
    const EXPECTED: &'static str = u64::EXPECTED;

    fn read(value: &Value) -> Option<Self> {
        usize::try_from(u64::read(value)?).ok()
    }
}

impl Setting for u32 {
    const EXPECTED: &'static str = u64::EXPECTED;

    fn read(value: &Value) -> Option<Self> {
        u32::try_from(u64::read(value)?).ok()
    }
}

impl Setting for Duration {
    const EXPECTED: &'static str = "a duration such as \"200ms\", \"5s\" or \"1m 30s\"";

    fn read(value: &Value) -> Option<Self> {
        let duration = humantime::parse_duration(value.as_str()?).ok()?;
        (duration <= DURATION_MAX).then_some(duration)
    }
}

/// A number of bytes.
#[derive(Clone, Copy)]
pub(super) struct Size(pub u64);

impl Setting for Size {
    const EXPECTED: &'static str = "a size such as \"64MiB\", \"1GB\" or a number of bytes";

    fn read(value: &Value) -> Option<Self> {
        match value {
            Value::String(text) => text.parse::<bytesize::ByteSize>().ok().map(|size| Size(size.0)),
            other => u64::read(other).map(Size),
        }
    }
}

/// Where to listen, or nowhere.
pub(super) struct Listen(pub Option<SocketAddr>);

impl Setting for Listen {
    const EXPECTED: &'static str =
        "an IP address and a port such as \"127.0.0.1:9477\", or \"off\"";

    fn read(value: &Value) -> Option<Self> {
        match value.as_str()? {
            "off" => Some(Listen(None)),
            text => text.parse().ok().map(|address| Listen(Some(address))),
        }
    }
}

impl Setting for ChosenType {
    const EXPECTED: &'static str = ChosenType::EXPECTED;

    fn read(value: &Value) -> Option<Self> {
        ChosenType::parse(value.as_str()?)
    }
}

/// A setting that is one of a few words.
macro_rules! words {
    ($type:ty, $expected:literal, $($word:literal => $value:expr),+ $(,)?) => {
        impl Setting for $type {
            const EXPECTED: &'static str = $expected;

            fn read(value: &Value) -> Option<Self> {
                match value.as_str()? {
                    $($word => Some($value),)+
                    _ => None,
                }
            }
        }
    };
}

words!(Consistency, "\"transaction\" or \"parallel\"",
    "transaction" => Consistency::Transaction, "parallel" => Consistency::Parallel);
words!(InvalidText, "\"error\" or \"replace\"",
    "error" => InvalidText::Error, "replace" => InvalidText::Replace);
words!(MissingRows, "\"error\" or \"skip\"",
    "error" => MissingRows::Error, "skip" => MissingRows::Skip);
words!(Policy, "\"apply\", \"additive\" or \"stop\"",
    "apply" => Policy::Apply, "additive" => Policy::Additive, "stop" => Policy::Stop);
words!(Mode, "\"mirror\" or \"history\"", "mirror" => Mode::Mirror, "history" => Mode::History);
words!(
    Compression,
    "\"auto\", \"lz4\" or \"none\"",
    "auto" => Compression::Auto,
    "lz4" => Compression::Lz4,
    "none" => Compression::None,
);
words!(Unrepresentable, "\"error\", \"null\" or \"string\"",
    "error" => Unrepresentable::Error, "null" => Unrepresentable::Null,
    "string" => Unrepresentable::String);
words!(LogFormat, "\"plain\" or \"json\"", "plain" => LogFormat::Plain, "json" => LogFormat::Json);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_may_be_text() {
        assert_eq!(u64::read(&json!(7)), Some(7));
        assert_eq!(u64::read(&json!("10_000")), Some(10_000));
        assert_eq!(u64::read(&json!(-1)), None);
        assert_eq!(u64::read(&json!(1.5)), None);
        assert_eq!(u32::read(&json!(4_294_967_296_u64)), None);
        assert_eq!(bool::read(&json!("false")), Some(false));
        assert_eq!(bool::read(&json!(0)), None);
    }

    #[test]
    fn durations_and_sizes_have_units() {
        assert_eq!(Duration::read(&json!("200ms")), Some(Duration::from_millis(200)));
        assert_eq!(Duration::read(&json!("1m 30s")), Some(Duration::from_secs(90)));
        for bad in [json!(200), json!("200"), json!("-1s"), json!("1000000 years")] {
            assert_eq!(Duration::read(&bad), None, "{bad}");
        }
        assert_eq!(Size::read(&json!("64MiB")).map(|size| size.0), Some(64 << 20));
        assert_eq!(Size::read(&json!("1 kB")).map(|size| size.0), Some(1000));
        assert_eq!(Size::read(&json!(4096)).map(|size| size.0), Some(4096));
        assert!(Size::read(&json!("many")).is_none());
    }

    #[test]
    fn names_are_one_or_a_list() {
        let names = |value| Names::read(&value).map(|names| names.0);
        assert_eq!(names(json!("a")), Some(vec!["a".to_owned()]));
        assert_eq!(names(json!("a, b")), Some(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(names(json!(["a,b"])), Some(vec!["a,b".to_owned()]));
        assert_eq!(names(json!("")), Some(vec![]));
        assert_eq!(names(json!("a,,b")), None);
        assert_eq!(names(json!([1])), None);
    }
}
