use super::*;
use crate::target::clickhouse::ChosenType;

const MINIMAL: &str = r#"
[source]
connection_string = "postgres://app:hunter2@db.example:5432/shop"
slot_name = "shop"

[[targets.postgres]]
name = "standby"
connection_string = "host=standby user=app password=hunter2 dbname=shop"

[[targets.clickhouse]]
name = "olap"
connection_string = "http://default:hunter2@ch.example:8123/shop"
"#;

fn env(pairs: &[(&str, &str)]) -> Environment {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn parse(text: &str, environment: &[(&str, &str)]) -> Result<Config, Problems> {
    Config::parse(text, Syntax::Toml, &env(environment))
}

fn problems(text: &str, environment: &[(&str, &str)]) -> Vec<String> {
    match parse(text, environment) {
        Ok(config) => panic!("accepted: {config:?}"),
        Err(problems) => {
            assert!(!problems.to_string().contains("hunter2"), "{problems}");
            problems.lines().to_vec()
        }
    }
}

#[test]
fn a_minimal_file_has_the_documented_defaults() {
    let config = parse(MINIMAL, &[]).expect("valid");
    assert_eq!(config.source.slot_name, "shop");
    assert!(config.source.create_slot && config.source.publications.is_empty());
    let kinds: Vec<_> =
        config.targets.iter().map(|t| (t.name.as_str(), t.kind().as_str())).collect();
    assert_eq!(kinds, [("standby", "postgres"), ("olap", "clickhouse")]);
    assert_eq!(config.targets[0].retry.max_attempts, None);
    assert_eq!(config.targets[1].batch.interval, Duration::from_secs(1));
    assert_eq!(config.spool.max_size, 64 << 20);
    assert_eq!(config.spool.max_disk, 10 << 30);
    assert_eq!(config.spool.dir, std::env::temp_dir().join("rsrepl-shop"));
    assert_eq!(config.telemetry.address.expect("on").to_string(), "127.0.0.1:9477");
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn the_spool_lies_where_it_is_said_or_where_systemd_has_room() {
    let state = [("STATE_DIRECTORY", "/var/lib/rsrepl:/var/lib/other")];
    let named = format!("{MINIMAL}\n[spool]\nconfirm = \"spooled\"\ndir = \"/scratch\"");
    let dir = |text: &str, state: &[_]| {
        let spool = parse(text, state).expect("valid").spool;
        (spool.dir, spool.lasts)
    };
    assert_eq!(dir(MINIMAL, &state), (PathBuf::from("/var/lib/rsrepl"), true));
    assert_eq!(dir(&named, &state), (PathBuf::from("/scratch"), true));
    assert_eq!(dir(&named, &[]), (PathBuf::from("/scratch"), true));
    // for a shell, which has no such variable, it is good enough; `run` does not take it for a spool on disk
    let nowhere = format!("{MINIMAL}\n[spool]\nconfirm = \"spooled\"");
    assert_eq!(dir(&nowhere, &[]), (std::env::temp_dir().join("rsrepl-shop"), false));
}

#[test]
fn yaml_has_the_same_keys() {
    let text = "
source:
  connection_string: host=db user=app
  slot_name: shop
  publication: [a, b]
targets:
  postgres:
    - name: standby
      connection_string: host=standby user=app
      retry: {backoff: 1s, max_attempts: 5}
logging:
";
    let config = Config::parse(text, Syntax::Yaml, &env(&[])).expect("valid");
    assert_eq!(config.source.publications, ["a", "b"]);
    assert_eq!(config.targets[0].retry.max_attempts, Some(5));
    assert_eq!(Syntax::of(Path::new("/etc/rsrepl.yml")), Syntax::Yaml);
    assert_eq!(Syntax::of(Path::new("/etc/rsrepl.conf")), Syntax::Toml);
}

#[test]
fn every_problem_is_told_at_once() {
    let found = problems(
        r#"
[source]
connection_strin = "postgres://app:hunter2@db/shop"
slot_name = "Not Valid"

[[targets.postgres]]
name = "a"
connection_string = "host=h user=u password=hunter2"
batch_size = 0
batch_interval = 200
retry.max_attemps = 3

[[targets.postgres]]
name = "a"
connection_string = 7

[pipelin]
worker_count = 1

[spool]
confirm = "spooled"
"#,
        &[],
    );
    assert_eq!(
        found,
        [
            "source.connection_string: is missing",
            "source.slot_name: must be 1 to 63 of a-z, 0-9 and _",
            "targets.postgres[0].batch_size: must be between 1 and 1000000",
            "targets.postgres[0].batch_interval: expected a duration such as \"200ms\", \"5s\" or \
             \"1m 30s\", not 200",
            "targets.postgres[1].name: another target has the name \"a\" too",
            "targets.postgres[1].connection_string: expected a text",
            "source.connection_strin: unknown key; the nearest known key is source.connection_string",
            "targets.postgres[0].retry.max_attemps: unknown key; the nearest known key is \
             targets.postgres[].retry.max_attempts",
            "pipelin: unknown key; the nearest known key is pipeline",
        ]
    );
}

#[test]
fn an_unknown_key_is_led_to_its_place() {
    let unknown = |lines: &str| {
        let found = problems(&format!("{MINIMAL}\n{lines}\n"), &[]);
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].clone()
    };
    assert!(unknown("[pipeline]\nbatch_size = 1").ends_with("targets.clickhouse[].batch_size"));
    assert!(unknown("[spool]\nsize = 1").ends_with("spool.max_size"));
    assert!(unknown("[logging]\nzzzzzzzz = 1").ends_with("known here: level, format"));
    assert!(
        unknown("[[targets.mysql]]\nname = \"x\"").contains("known here: postgres, clickhouse")
    );
}

#[test]
fn connection_strings_are_parsed_at_once() {
    for bad in
        ["host=h port=hunter2 user=u", "user=u password=hun ter2", "postgres://u:hunter2@h:x/d"]
    {
        let found = problems(&MINIMAL.replace("host=standby user=app password=hunter2", bad), &[]);
        assert!(found[0].starts_with("targets.postgres[0].connection_string: "), "{found:?}");
        assert!(found.len() == 1 && !found[0].contains("ter2"), "{found:?}");
    }
    let found =
        problems(&MINIMAL.replace("http://default:hunter2@", "tcp://default:hunter2@"), &[]);
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("targets.clickhouse[0]: target olap: connection_string must"));
}

#[test]
fn columns_have_policies_of_their_own() {
    let options = |lines: &str| {
        let text = format!("{MINIMAL}\n{lines}\n");
        let config = parse(&text, &[]).map_err(|problems| problems.to_string())?;
        match config.targets.into_iter().map(|target| target.options).next_back() {
            Some(TargetOptions::ClickHouse(options)) => Ok(options.policies),
            other => Err(format!("{other:?}")),
        }
    };
    let policies = options("unrepresentable = \"null\"\ncolumns = {\"public.t.c\" = \"string\"}");
    let policies = policies.expect("valid");
    assert_eq!(policies.of("public", "t", "c").0.as_str(), "string");
    assert_eq!(policies.of("public", "t", "d").0.as_str(), "null");
    let error = options("columns = {\"public.t.c\" = \"zero\"}").expect_err("no such policy");
    assert_eq!(
        error,
        "targets.clickhouse[0].columns.public.t.c: expected \"error\", \"null\" or \"string\", \
         not \"zero\""
    );
}

#[test]
fn columns_have_types_of_their_own() {
    let columns = |columns: &str| {
        let text = format!("{MINIMAL}\ncolumns = {{ {columns} }}\n");
        let config = parse(&text, &[]).map_err(|problems| problems.to_string())?;
        match config.targets.into_iter().map(|target| target.options).next_back() {
            Some(TargetOptions::ClickHouse(options)) => Ok(options.policies),
            other => Err(format!("{other:?}")),
        }
    };
    let given = "\"a.t.ip\" = { type = \"IPv6\", unrepresentable = \"null\" }, \"a.t.n\" = { type = \"UInt64\" }";
    let policies = columns(given).expect("valid");
    let (policy, chosen) = policies.of("a", "t", "ip");
    assert_eq!((policy.as_str(), chosen), ("null", ChosenType::parse("IPv6").as_ref()));
    assert!(policies.of("a", "t", "n").1.is_some());
    for (given, problem) in [
        ("\"a.t.c\" = { type = \"Int\" }", "a.t.c.type: expected a ClickHouse type such as"),
        ("\"a.t.c\" = { type = 7 }", "a.t.c.type: expected a ClickHouse type such as"),
        (
            "\"a.t.c\" = { typ = \"Int8\" }",
            "a.t.c.typ: unknown key; known here: type, unrepresentable",
        ),
        ("\"a.t.c\" = { unrepresentable = \"no\" }", "a.t.c.unrepresentable: expected \"error\""),
        (
            "\"a.t.c\" = { type = \"Int8\", unrepresentable = \"string\" }",
            "a.t.c: \"string\" makes the column a String",
        ),
    ] {
        let error = columns(given).expect_err(given);
        assert!(error.starts_with(&format!("targets.clickhouse[0].columns.{problem}")), "{error}");
    }
}

#[test]
fn no_target_is_a_problem() {
    let found =
        problems("[source]\nconnection_string = \"host=h user=u\"\nslot_name = \"s\"\n", &[]);
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("targets: there is none"), "{found:?}");
}

#[test]
fn a_misspelt_level_is_not_taken_for_a_filter() {
    let level =
        |level: &str| parse(&format!("{MINIMAL}\n[logging]\nlevel = {level:?}\n"), &[]).is_ok();
    for good in ["warn", "DEBUG", "off", "info,rsrepl_sidecar::source=debug", "warn,h2=off"] {
        assert!(level(good), "{good}");
    }
    for bad in ["inof", "", "info,sqlx", "a=b=c", "rsrepl=loud"] {
        assert!(!level(bad), "{bad}");
    }
}

#[test]
fn no_two_parts_are_one_database() {
    let same = MINIMAL.replace("host=standby", "host=db.example port=5432");
    assert_eq!(
        problems(&same, &[]),
        ["targets: target standby is the same database as the source"]
    );
    let twice = format!(
        "{MINIMAL}\n[[targets.clickhouse]]\nname = \"again\"\n\
         connection_string = \"http://other@ch.example/shop\"\n"
    );
    assert_eq!(
        problems(&twice, &[]),
        ["targets: target again is the same database as target olap"]
    );
}

#[test]
fn variables_are_replaced_and_missing_ones_named() {
    let text = MINIMAL.replace("app:hunter2@", "${DB_USER}:$${x}$y${DB_PASSWORD}@");
    let config = parse(&text, &[("DB_USER", "u"), ("DB_PASSWORD", "hunter2")]).expect("valid");
    assert_eq!(config.source.connection.config().get_password(), Some("${x}$yhunter2".as_bytes()));
    let found = problems(&text, &[("DB_USER", "u")]);
    assert_eq!(
        found[0],
        "source.connection_string: the environment variable DB_PASSWORD is not set (a dollar sign is \
         written $$)"
    );
    for (bad, what) in
        [("${", "without its }"), ("${}", "without the name"), ("${a b}", "without the name")]
    {
        let found = problems(&MINIMAL.replace("\"shop\"", &format!("\"{bad}\"")), &[]);
        assert!(found[0].starts_with("source.slot_name: ") && found[0].contains(what), "{found:?}");
    }
}

#[test]
fn a_value_from_the_environment_is_not_shown() {
    let text = format!("{MINIMAL}\n[pipeline]\nworker_count = \"${{PW}}\"\n");
    let found = problems(&text, &[("PW", "hunter2")]);
    assert_eq!(found, ["pipeline.worker_count (from ${PW}): expected a whole number"]);
    let found = problems(MINIMAL, &[("RSREPL__PIPELINE__BUFFER_SIZE", "hunter2")]);
    assert_eq!(
        found,
        ["pipeline.buffer_size (from RSREPL__PIPELINE__BUFFER_SIZE): expected a whole number"]
    );
}

#[test]
fn the_environment_overrides_and_appends() {
    let mut overrides = vec![
        ("RSREPL__SOURCE__CONNECTION_STRING", "host=other user=u"),
        ("RSREPL__TARGETS__POSTGRES__0__BATCH_SIZE", "5"),
        ("RSREPL__TARGETS__POSTGRES__0__RETRY__BACKOFF", "2s"),
        ("RSREPL__SOURCE__CREATE_SLOT", "false"),
        // no interpolation here
        ("RSREPL__TARGETS__POSTGRES__1__CONNECTION_STRING", "host=${h} user=u1"),
    ];
    // appended one after the other, also past nine
    let names: Vec<String> =
        (1..=11).map(|i| format!("RSREPL__TARGETS__POSTGRES__{i}__NAME")).collect();
    let strings: Vec<String> =
        (2..=11).map(|i| format!("RSREPL__TARGETS__POSTGRES__{i}__CONNECTION_STRING")).collect();
    overrides.extend(names.iter().map(|name| (name.as_str(), &name["RSREPL__".len()..])));
    let values: Vec<String> = (2..=11).map(|i| format!("host=h{i} user=u")).collect();
    let strings = strings.iter().zip(&values);
    overrides.extend(strings.map(|(name, value)| (name.as_str(), value.as_str())));
    let config = parse(MINIMAL, &overrides).expect("valid");
    assert_eq!(config.source.connection.endpoint(), "other:5432/u");
    assert!(!config.source.create_slot);
    assert_eq!(config.targets[0].batch.rows, 5);
    assert_eq!(config.targets[0].retry.backoff, Duration::from_secs(2));
    assert_eq!(config.targets.len(), 13);
    assert_eq!(config.targets[11].name, "TARGETS__POSTGRES__11__NAME");
}

#[test]
fn a_wrong_override_names_the_variable() {
    for (name, what) in [
        ("RSREPL__SOURCE__SLOT_NAM", "the nearest known key is source.slot_name"),
        ("RSREPL__TARGETS__POSTGRES__3__NAME", "targets.postgres has 1 items; the next is 1"),
        ("RSREPL__SOURCE____X", "an empty part in the name"),
        ("RSREPL__SOURCE__SLOT_NAME__X", "source.slot_name is not a table"),
        ("RSREPL__SOURCE__0", "source is not a list"),
    ] {
        let found = problems(MINIMAL, &[(name, "hunter2")]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains(name) && found[0].contains(what), "{found:?}");
    }
}

#[test]
fn syntax_errors_tell_the_place_and_not_the_line() {
    for (text, syntax, place) in [
        (
            "[source]\nconnection_string = \"postgres://u:hunter2@h/d\nslot_name = 1\n",
            Syntax::Toml,
            "line 2",
        ),
        ("[source]\npassword = hunter2\n", Syntax::Toml, "line 2"),
        ("a = 1\nhunter2 = 1\nhunter2 = 2\n", Syntax::Toml, "line 3"),
        ("source:\n  connection_string: \"hunter2\n", Syntax::Yaml, "line"),
        ("source: [hunter2: {\n", Syntax::Yaml, "line"),
        ("hunter2: 1\nhunter2: 2\n", Syntax::Yaml, "not YAML"),
        ("source: *hunter2\n", Syntax::Yaml, "line 1"),
        ("- hunter2\n", Syntax::Yaml, "expected tables"),
    ] {
        let error = Config::parse(text, syntax, &env(&[])).expect_err(text).to_string();
        assert!(!error.contains("hunter2") && error.contains(place), "{error}");
    }
}
