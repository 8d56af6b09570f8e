//! Scenarios of `data/publications.sql`. (Also a module of `pgrx-tests`: knows nothing but `std`.)

/// What publications make of changes.
pub const PUBLICATIONS: &str = include_str!("../data/publications.sql");

/// One of them; the file says what its parts are.
#[derive(Debug, Default)]
pub struct Scenario {
    /// Also the name of its schema.
    pub name: String,
    /// Statements for the source and, unless there is a `target`, for the targets.
    pub both: String,
    /// Statements for the targets.
    pub target: Option<String>,
    /// Statements for the source alone.
    pub source: String,
    /// What is replicated, each string sent at once.
    pub work: Vec<String>,
}

/// Reads a file of scenarios.
pub fn parse(text: &str) -> Vec<Scenario> {
    text.split("\n== ").skip(1).map(scenario).collect()
}

fn scenario(text: &str) -> Scenario {
    let (name, text) = text.split_once('\n').expect("a scenario has parts");
    let mut scenario = Scenario { name: name.to_owned(), ..Scenario::default() };
    for part in text.split("@ ").skip(1) {
        let (part, statements) = part.split_once('\n').expect("a part has statements");
        let whole = statements.to_owned();
        match part {
            "both" => scenario.both = whole,
            "target" => scenario.target = Some(whole),
            "source" => scenario.source = whole,
            "work" => scenario.work = statements.trim().split("\n\n").map(str::to_owned).collect(),
            other => panic!("{name}: there is no part {other:?}"),
        }
    }
    scenario
}
