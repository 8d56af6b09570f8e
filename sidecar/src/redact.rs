//! Keeps passwords out of logs, metrics, errors and the process title.
//!
//! Three lines of defence: a [`Secret`] cannot be printed by accident; [`scrub`] takes out of a text of
//! unknown origin whatever looks like a credential; a [`Mask`] knows this process's own passwords, and
//! every log line, report and probe goes through it.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// What stands in the place of a secret.
pub const MASK: &str = "***";

/// A text that must not be shown: a connection string, a password. `Debug` and `Display` print
/// [`MASK`]; the text itself is asked for by name.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// The text. Never put it into a message.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

/// Bytes below which a password is not masked wherever it stands: "a" is part of every message.
const MASKED_MIN: usize = 4;

/// The passwords of this process, to be taken out of texts. Cheap to clone; prints nothing.
#[derive(Clone, Default)]
pub struct Mask(Arc<[String]>);

impl Mask {
    pub fn new(secrets: impl IntoIterator<Item = String>) -> Self {
        let mut known: Vec<String> =
            secrets.into_iter().filter(|secret| secret.len() >= MASKED_MIN).collect();
        // one may be a part of another
        known.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Mask(known.into())
    }

    /// `text` without any of them.
    pub fn apply<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let mut clean = Cow::Borrowed(text);
        for secret in self.0.iter().filter(|secret| text.contains(secret.as_str())) {
            clean = Cow::Owned(clean.replace(secret.as_str(), MASK));
        }
        clean
    }
}

impl fmt::Debug for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

/// Masks the password of every URL (`scheme://user:password@host`) and of every `password=…` pair in
/// `text`.
pub fn scrub(text: &str) -> Cow<'_, str> {
    let mut found = secret_ranges(text);
    if found.is_empty() {
        return Cow::Borrowed(text);
    }
    found.sort_unstable();
    let mut clean = String::with_capacity(text.len());
    let mut done = 0;
    for (start, end) in found {
        if start >= done {
            clean.push_str(&text[done..start]);
            clean.push_str(MASK);
        }
        done = done.max(end);
    }
    clean.push_str(&text[done..]);
    Cow::Owned(clean)
}

/// Byte ranges of credentials, at character boundaries, in no order; they may overlap.
fn secret_ranges(text: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("://") {
        found.extend(url_password(text, at + "://".len()));
    }
    for key in ["password", "passwd", "pwd"] {
        // ASCII lower case keeps byte offsets
        for (at, _) in text.to_ascii_lowercase().match_indices(key) {
            found.extend(assigned(text, at + key.len()));
        }
    }
    found
}

/// The password in the authority that starts at `start`: what stands between the first `:` and the
/// last `@` before the end of the word, so that an unescaped `@`, `/` or `?` does not let a part out.
fn url_password(text: &str, start: usize) -> Option<(usize, usize)> {
    let rest = &text[start..];
    let word = rest.find(|c: char| c.is_whitespace() || c == '"').map_or(rest, |end| &rest[..end]);
    let at = word.rfind('@')?;
    let colon = word[..at].find(':')?;
    (colon + 1 < at).then_some((start + colon + 1, start + at))
}

/// The value after `=` or `:` at `start`: quoted, or up to a blank, `&`, `,` or `;`.
fn assigned(text: &str, start: usize) -> Option<(usize, usize)> {
    let rest = &text[start..];
    let trimmed = rest.trim_start();
    let value = trimmed.strip_prefix('=').or_else(|| trimmed.strip_prefix(':'))?.trim_start();
    let from = text.len() - value.len();
    let end = match value.chars().next()? {
        quote @ ('\'' | '"') => quoted_end(value, quote),
        _ => value
            .find(|c: char| c.is_whitespace() || matches!(c, '&' | ',' | ';'))
            .unwrap_or(value.len()),
    };
    (end > 0).then_some((from, from + end))
}

/// End of the quoted text that `value` starts with, past its closing quote; a backslash escapes.
fn quoted_end(value: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in value.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    value.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_printed() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret} {secret:?} {:?}", Some(&secret)), "*** *** Some(***)");
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn known_passwords_are_masked_wherever_they_stand() {
        let mask = Mask::new(["pass".to_owned(), "passphrase".to_owned(), "a".to_owned()]);
        assert_eq!(mask.apply("a passphrase, a pass"), "a ***, a ***");
        assert_eq!(format!("{mask:?}"), "***");
    }

    #[test]
    fn passwords_are_taken_out_of_texts() {
        for (text, clean) in [
            ("plain text: nothing here", "plain text: nothing here"),
            ("postgres://u:pw@h:5432/d failed", "postgres://u:***@h:5432/d failed"),
            ("postgres://u@h/d", "postgres://u@h/d"),
            ("http://u:a/b?c@d@h:8123/x", "http://u:***@h:8123/x"),
            ("host=h password=pw user=u", "host=h password=*** user=u"),
            (r"password = 'a \' b' host=h", "password = *** host=h"),
            ("password='never closed", "password=***"),
            ("http://h/?user=u&password=pw&x=1", "http://h/?user=u&password=***&x=1"),
            ("PASSWORD=ü", "PASSWORD=***"),
            (
                "password authentication failed for user \"u\"",
                "password authentication failed for user \"u\"",
            ),
        ] {
            assert_eq!(scrub(text), clean, "{text}");
        }
    }
}
