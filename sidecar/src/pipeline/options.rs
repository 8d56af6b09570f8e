//! What the output plugin is asked for.

use rsrepl_wire::limits::FORMAT_VERSION;

use crate::config::{InvalidText, Source};
use crate::quote::identifier;

/// Options of the plugin; publications as a list of quoted identifiers, none for all tables.
pub(crate) fn plugin_options(source: &Source, streaming: bool) -> Vec<(String, String)> {
    let mut options = vec![
        ("format_version".to_owned(), FORMAT_VERSION.to_string()),
        ("combine".to_owned(), "on".to_owned()),
        ("rewrites".to_owned(), "on".to_owned()),
    ];
    if streaming {
        options.push(("streaming".to_owned(), "on".to_owned()));
    }
    if let Some(encoding) = &source.encoding {
        options.push(("encoding".to_owned(), encoding.clone()));
    }
    if source.invalid_text == InvalidText::Replace {
        options.push(("invalid_text".to_owned(), "replace".to_owned()));
    }
    if !source.publications.is_empty() {
        let quoted = source.publications.iter().map(|name| identifier(name));
        options.push(("publications".to_owned(), quoted.collect::<Vec<_>>().join(",")));
    }
    options
}
