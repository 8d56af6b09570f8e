//! Logs: plain or JSON, on standard error, with secrets masked.

use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;

use indicatif::MultiProgress;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::{LogFormat, Logging};
use crate::redact::Mask;

/// The variable that goes before `[logging] level`.
pub const FILTER_VARIABLE: &str = "RUST_LOG";

/// Where bars are drawn, above which lines go on; none where nobody looks.
static TERMINAL: OnceLock<MultiProgress> = OnceLock::new();

/// Standard error, when plain lines go to a terminal there.
pub fn terminal() -> Option<&'static MultiProgress> {
    TERMINAL.get()
}

/// Starts logging for the whole process; later calls do nothing.
pub fn init(logging: &Logging, mask: Mask) {
    let (filter, bad) = filter(logging, std::env::var(FILTER_VARIABLE).ok().as_deref());
    let writer = MaskedStderr(mask);
    if logging.format == LogFormat::Plain && io::stderr().is_terminal() {
        TERMINAL.get_or_init(MultiProgress::new);
    }
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    let set = match logging.format {
        LogFormat::Plain => builder.with_ansi(io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    if set.is_ok() && bad {
        tracing::warn!("{FILTER_VARIABLE} cannot be read as a filter; using logging.level");
    }
}

/// The filter, and whether the variable was no good.
fn filter(logging: &Logging, variable: Option<&str>) -> (EnvFilter, bool) {
    let parse = |text: &str| text.parse::<EnvFilter>().ok();
    let variable = variable.filter(|text| !text.is_empty());
    let found = variable.and_then(parse);
    let bad = variable.is_some() && found.is_none();
    // the level was validated with the configuration
    (found.or_else(|| parse(&logging.level)).unwrap_or_else(|| EnvFilter::new("info")), bad)
}

#[derive(Clone)]
struct MaskedStderr(Mask);

impl<'a> MakeWriter<'a> for MaskedStderr {
    type Writer = MaskedWriter<'a, AboveBars>;

    fn make_writer(&'a self) -> Self::Writer {
        MaskedWriter { mask: &self.0, to: AboveBars }
    }
}

/// Standard error; bars are taken away for as long as it takes.
struct AboveBars;

impl Write for AboveBars {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match terminal() {
            Some(terminal) => terminal.suspend(|| io::stderr().write(bytes)),
            None => io::stderr().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// tracing-subscriber writes each event with one `write_all`, so a secret is never cut in two.
struct MaskedWriter<'a, W> {
    mask: &'a Mask,
    to: W,
}

impl<W: Write> Write for MaskedWriter<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match std::str::from_utf8(bytes) {
            Ok(text) => self.to.write_all(self.mask.apply(text).as_bytes())?,
            Err(_) => self.to.write_all(bytes)?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_goes_first() {
        let logging = Logging { level: "warn".into(), format: LogFormat::Plain };
        let filter = |variable| {
            let (filter, bad) = super::filter(&logging, variable);
            (filter.to_string(), bad)
        };
        assert_eq!(filter(None), ("warn".into(), false));
        assert_eq!(filter(Some("")), ("warn".into(), false));
        assert_eq!(filter(Some("rsrepl_sidecar=debug")), ("rsrepl_sidecar=debug".into(), false));
        assert_eq!(filter(Some("a=b=c")), ("warn".into(), true));
    }

    #[test]
    fn secrets_are_masked_on_the_way_out() {
        let mask = Mask::new(["hunter2".to_owned()]);
        let mut out = Vec::new();
        let mut writer = MaskedWriter { mask: &mask, to: &mut out };
        writer.write_all(b"failed for hunter2\n").expect("a Vec takes all");
        assert_eq!(out, b"failed for ***\n");
    }
}
