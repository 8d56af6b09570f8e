//! From a file and the environment to one tree of values: TOML or YAML, `${NAME}` in values, then
//! `RSREPL__…` overrides.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use serde_json::{Map, Value};

use crate::redact::scrub;

/// Variables with this prefix replace values of the file.
pub const OVERRIDE_PREFIX: &str = "RSREPL__";

/// The largest configuration file that is read, in bytes.
const FILE_MAX: u64 = 1 << 20;

/// The environment as the configuration sees it.
pub type Environment = BTreeMap<String, String>;

/// The process's own environment. Variables that are not UTF-8 are left out.
pub fn environment() -> Environment {
    let text = |(name, value): (OsString, OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    std::env::vars_os().filter_map(text).collect()
}

/// The tree, where its values came from when not from the file alone, and what was wrong on the way.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub(super) root: Map<String, Value>,
    pub(super) origins: BTreeMap<String, String>,
    pub(super) problems: Vec<String>,
}

/// How the file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    Toml,
    Yaml,
}

impl Syntax {
    /// By the file's ending: `.yaml` and `.yml` are YAML, everything else TOML.
    pub fn of(path: &Path) -> Self {
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("yaml" | "yml") => Syntax::Yaml,
            _ => Syntax::Toml,
        }
    }
}

/// The file's text.
pub(super) fn read_file(path: &Path) -> Result<String, String> {
    let fail = |what: String| format!("cannot read {}: {what}", path.display());
    let size = std::fs::metadata(path).map_err(|e| fail(e.to_string()))?.len();
    if size > FILE_MAX {
        return Err(fail(format!("{size} bytes are more than a configuration has")));
    }
    std::fs::read_to_string(path).map_err(|e| fail(e.to_string()))
}

/// All three steps. Syntax errors are the only ones that end it early.
pub(super) fn load(
    text: &str,
    syntax: Syntax,
    environment: &Environment,
) -> Result<Loaded, String> {
    let mut loaded = Loaded { root: parse(text, syntax)?, ..Loaded::default() };
    let mut root = std::mem::take(&mut loaded.root);
    for (key, value) in &mut root {
        interpolate(key, value, environment, &mut loaded);
    }
    let mut root = Value::Object(root);
    for (segments, name, value) in overrides(environment) {
        match set(&mut root, &segments, value) {
            Ok(path) => {
                loaded.origins.insert(path, name.to_owned());
            }
            Err(what) => loaded.problems.push(format!("{name}: {what}")),
        }
    }
    if let Value::Object(map) = root {
        loaded.root = map;
    }
    Ok(loaded)
}

/// Neither parser's message may quote the text: it could be the line with the password.
fn parse(text: &str, syntax: Syntax) -> Result<Map<String, Value>, String> {
    let value = match syntax {
        Syntax::Toml => {
            let table: toml::Table = toml::from_str(text).map_err(|error| {
                let place = error.span().map(|span| place(text, span.start)).unwrap_or_default();
                format!("not TOML{place}{}", quiet(error.message()))
            })?;
            serde_json::to_value(table).map_err(|_| "not TOML".to_owned())?
        }
        Syntax::Yaml => {
            let fail = |error: serde_yaml_ng::Error| {
                let place = error.location().map(|at| place(text, at.index())).unwrap_or_default();
                let message = error.to_string();
                format!(
                    "not YAML{place}{}",
                    quiet(message.split(" at line ").next().unwrap_or_default())
                )
            };
            let tree: serde_yaml_ng::Value = serde_yaml_ng::from_str(text).map_err(fail)?;
            serde_json::to_value(tree).map_err(|_| "YAML keys must be texts".to_owned())?
        }
    };
    match value {
        Value::Object(map) => Ok(map),
        Value::Null => Ok(Map::new()),
        _ => Err("expected tables such as [source] at the top".into()),
    }
}

/// A parser's message, unless it quotes something.
fn quiet(message: &str) -> String {
    if message.contains(['"', '\'', '`']) { String::new() } else { format!(": {}", scrub(message)) }
}

/// ` (line 3, column 7)` of a byte offset.
fn place(text: &str, offset: usize) -> String {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!(" (line {line}, column {column})")
}

/// Replaces `${NAME}` in every text below `value`.
fn interpolate(path: &str, value: &mut Value, environment: &Environment, loaded: &mut Loaded) {
    match value {
        Value::String(text) if text.contains('$') => match expand(text, environment) {
            Ok((expanded, names)) => {
                *text = expanded;
                if !names.is_empty() {
                    loaded.origins.insert(path.to_owned(), names.join(" and "));
                }
            }
            Err(what) => loaded.problems.push(format!("{path}: {what}")),
        },
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                interpolate(&format!("{path}[{index}]"), item, environment, loaded);
            }
        }
        Value::Object(map) => {
            for (key, item) in map {
                interpolate(&format!("{path}.{key}"), item, environment, loaded);
            }
        }
        _ => {}
    }
}

/// The text with its variables, and which they were. `$$` is a dollar sign; so is a `$` before
/// anything but `{`.
fn expand(text: &str, environment: &Environment) -> Result<(String, Vec<String>), String> {
    let (mut out, mut names) = (String::with_capacity(text.len()), Vec::new());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('{') {
            let end = after.find('}').ok_or("a ${ without its } (a dollar sign is written $$)")?;
            let name = &after[..end];
            let valid =
                !name.is_empty() && name.bytes().all(|b| b == b'_' || b.is_ascii_alphanumeric());
            if !valid {
                return Err(
                    "a ${…} without the name of a variable (a dollar sign is written $$)".into()
                );
            }
            let value = environment.get(name).ok_or_else(|| {
                format!("the environment variable {name} is not set (a dollar sign is written $$)")
            })?;
            out.push_str(value);
            names.push(format!("${{{name}}}"));
            rest = &after[end + 1..];
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    Ok((out, names))
}

/// The overrides with their segments in lower case, an index in numeric order, so that appending
/// targets 0, 1, 2 … 10 works.
fn overrides(environment: &Environment) -> Vec<(Vec<String>, &str, &str)> {
    let mut found: Vec<(Vec<String>, &str, &str)> = environment
        .iter()
        .filter_map(|(name, value)| {
            let path = name.strip_prefix(OVERRIDE_PREFIX)?;
            let segments = path.split("__").map(str::to_ascii_lowercase).collect();
            Some((segments, name.as_str(), value.as_str()))
        })
        .collect();
    let segment = |a: &String, b: &String| match (a.parse::<u64>(), b.parse::<u64>()) {
        (Ok(a), Ok(b)) => a.cmp(&b),
        _ => a.cmp(b),
    };
    found.sort_by(|(a, ..), (b, ..)| {
        let first = a.iter().zip(b).map(|(a, b)| segment(a, b)).find(|order| order.is_ne());
        first.unwrap_or(Ordering::Equal).then(a.len().cmp(&b.len()))
    });
    found
}

/// Sets the value at the end of `segments`, making tables and the next item of a list on the way, and
/// returns its path.
fn set(root: &mut Value, segments: &[String], text: &str) -> Result<String, String> {
    let mut path = String::new();
    let mut place = root;
    for segment in segments {
        if segment.is_empty() {
            return Err("an empty part in the name; keys are joined with two underscores".into());
        }
        if let Ok(index) = segment.parse::<usize>() {
            if place.is_null() {
                *place = Value::Array(Vec::new());
            }
            let items = place.as_array_mut().ok_or_else(|| format!("{path} is not a list"))?;
            if index > items.len() {
                return Err(format!(
                    "{path} has {} items; the next is {}",
                    items.len(),
                    items.len()
                ));
            }
            if index == items.len() {
                items.push(Value::Null);
            }
            path.push_str(&format!("[{index}]"));
            // there is one now
            place = items.get_mut(index).ok_or("out of range")?;
        } else {
            if place.is_null() {
                *place = Value::Object(Map::new());
            }
            let map = place.as_object_mut().ok_or_else(|| format!("{path} is not a table"))?;
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(segment);
            place = map.entry(segment.as_str()).or_insert(Value::Null);
        }
    }
    *place = Value::from(text);
    Ok(path)
}
