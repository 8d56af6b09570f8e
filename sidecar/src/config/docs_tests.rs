//! The documentation of the keys, and the example file, are held against the code.

use std::collections::BTreeMap;

use super::*;

const DOCUMENT: &str = include_str!("../../../docs/configuration.md");
const EXAMPLE: &str = include_str!("../../../deploy/rsrepl.example.toml");

/// Path of every key in the document's tables, as in [`Key`], with what is in its column "default".
fn documented() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut section = String::new();
    for line in DOCUMENT.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            let name = heading.trim_matches('`');
            section = match name.strip_prefix("[[").and_then(|name| name.strip_suffix("]]")) {
                Some(list) => format!("{list}[]"),
                None => name.trim_matches(['[', ']']).to_owned(),
            };
            continue;
        }
        let mut cells = line.trim_matches('|').split(" | ");
        let (Some(key), Some(default), Some(_)) = (cells.next(), cells.next(), cells.next()) else {
            continue;
        };
        if let Some(key) = key.trim().strip_prefix('`').and_then(|key| key.strip_suffix('`')) {
            let twice = found.insert(format!("{section}.{key}"), default.trim().to_owned());
            assert_eq!(twice, None, "{section}.{key} is documented twice");
        }
    }
    found
}

#[test]
fn every_key_is_documented_with_its_default() {
    let documented = documented();
    let catalog = catalog();
    for Key { path, default } in &catalog {
        let said = documented.get(path).unwrap_or_else(|| panic!("{path} is not documented"));
        match default {
            Some(default) => assert_eq!(said, &format!("`{default}`"), "{path}"),
            None => assert!(matches!(said.as_str(), "required" | "none"), "{path}: {said}"),
        }
    }
    for path in documented.keys() {
        assert!(catalog.iter().any(|key| &key.path == path), "there is no key {path}");
    }
}

#[test]
fn what_is_documented_as_required_is() {
    let text = "[[targets.postgres]]\n[[targets.clickhouse]]\n";
    let problems = Config::parse(text, Syntax::Toml, &Environment::new()).expect_err("incomplete");
    let missing: Vec<String> = problems
        .lines()
        .iter()
        .filter_map(|line| Some(line.strip_suffix(": is missing")?.replace("[0]", "[]")))
        .collect();
    for (path, default) in documented() {
        assert_eq!(missing.contains(&path), default == "required", "{path}");
    }
}

fn example_environment() -> Environment {
    ["SOURCE_PASSWORD", "STANDBY_PASSWORD", "CLICKHOUSE_PASSWORD"]
        .map(|name| (name.to_owned(), "hunter2".to_owned()))
        .into()
}

#[test]
fn the_example_can_be_used() {
    let config = Config::parse(EXAMPLE, Syntax::Toml, &example_environment());
    let config = config.unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(config.targets.len(), 2);
    assert_eq!(config.source.publications, ["shop"]);
    let all = Config::parse(EXAMPLE, Syntax::Toml, &Environment::new()).expect_err("no passwords");
    assert!(all.to_string().contains("SOURCE_PASSWORD is not set"));
}

/// What the example says is a default is one: leaving such a line out changes nothing.
#[test]
fn the_example_shows_defaults() {
    let shown: toml::Table = EXAMPLE.parse().expect("TOML");
    let scalar = |value: &toml::Value| match value {
        toml::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let chosen = ["targets.clickhouse[].table_name", "source.publication"];
    for Key { path, default } in catalog() {
        let mut place = Some(&toml::Value::Table(shown.clone())).cloned();
        for part in path.split('.') {
            let (name, list) = (part.trim_end_matches("[]"), part.ends_with("[]"));
            place = place.and_then(|value| value.get(name).cloned());
            if list {
                place = place.and_then(|value| value.get(0).cloned());
            }
        }
        if let (Some(default), Some(value), false) =
            (default, place, chosen.contains(&path.as_str()))
        {
            assert_eq!(scalar(&value), default, "{path}");
        }
    }
}
