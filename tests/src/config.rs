//! The sidecar's configuration file, as the tests vary it.

use std::fmt::Write;

/// Only what is committed from the first start on is replicated.
pub const NO_COPY: &str = "data = false";

/// A configuration that [`Config::render`] makes TOML of.
#[derive(Clone, Debug)]
pub struct Config {
    /// `[source]`
    pub source: String,
    /// Further lines of `[source]`.
    pub source_options: String,
    /// The slot's name.
    pub slot: String,
    /// Name, connection string, further lines.
    pub postgres: Vec<Target>,
    /// Name, connection string, further lines.
    pub clickhouse: Vec<Target>,
    /// The port of `[telemetry]`, on 127.0.0.1.
    pub telemetry_port: u16,
    /// Lines of `[copy]`; [`NO_COPY`] for targets that are loaded beforehand.
    pub copy: String,
    /// Further sections.
    pub sections: String,
}

/// One `[[targets.…]]`.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub connection: String,
    /// Further lines.
    pub options: String,
}

impl Target {
    /// A target without further options.
    pub fn new(name: &str, connection: String) -> Target {
        Target { name: name.to_owned(), connection, options: String::new() }
    }
}

impl Config {
    /// The file's content.
    pub fn render(&self) -> String {
        let mut out = String::new();
        let _ = write!(
            out,
            "[source]\nconnection_string = {:?}\nslot_name = {:?}\n{}\n",
            self.source, self.slot, self.source_options
        );
        for (kind, targets) in [("postgres", &self.postgres), ("clickhouse", &self.clickhouse)] {
            for target in targets {
                let _ = write!(
                    out,
                    "\n[[targets.{kind}]]\nname = {:?}\nconnection_string = {:?}\n{}\n",
                    target.name, target.connection, target.options
                );
            }
        }
        let _ = write!(
            out,
            "\n[telemetry]\naddress = \"127.0.0.1:{}\"\n\n[copy]\n{}\n\n{}\n",
            self.telemetry_port, self.copy, self.sections
        );
        out
    }
}
