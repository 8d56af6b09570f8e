//! Whether the source's texts have a UTF-8 form, which is all that the wire knows.

use tokio_postgres::Client;

use super::Finding;
use super::source::failed;
use crate::config::{InvalidText, Source};
use crate::error::Result;

const SQL_ASCII: &str = "SQL_ASCII";

pub(super) async fn check(client: &Client, config: &Source) -> Result<Option<Finding>> {
    let sql = "SELECT getdatabaseencoding()::text, EXISTS (
                 SELECT FROM pg_catalog.pg_conversion
                 WHERE condefault AND conforencoding = pg_char_to_encoding($1::text::name)
                   AND contoencoding = pg_char_to_encoding('UTF8'))";
    let declared = config.encoding.as_deref();
    let row = client.query_one(sql, &[&declared.unwrap_or_default()]).await.map_err(failed)?;
    let (database, convertible): (String, bool) = (row.get(0), row.get(1));
    Ok(judge(&database, declared, convertible, config.invalid_text))
}

/// `convertible`: PostgreSQL has a conversion of what is declared.
fn judge(
    database: &str,
    declared: Option<&str>,
    convertible: bool,
    invalid: InvalidText,
) -> Option<Finding> {
    let utf8 = |name: &str| ["UTF8", "UTF-8"].iter().any(|utf8| name.eq_ignore_ascii_case(utf8));
    match declared {
        Some(declared) if database != SQL_ASCII => Some(Finding::error(
            format!(
                "source.encoding is {declared}, and the database is {database}: it is for SQL_ASCII \
                 databases, texts of others are converted by themselves"
            ),
            "remove source.encoding",
        )),
        Some(declared) if !convertible && !utf8(declared) => Some(Finding::error(
            format!("source.encoding is {declared}, which the source cannot convert to UTF8"),
            "set source.encoding to one that pg_conversion has, such as LATIN1 or WIN1252",
        )),
        None if database == SQL_ASCII && invalid == InvalidText::Error => Some(Finding::warning(
            "the database is SQL_ASCII: replication stops at the first text that is not UTF-8",
            "set source.encoding to what its texts are in, or source.invalid_text = \"replace\"",
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::Severity;

    #[test]
    fn what_is_declared_must_mean_something() {
        use InvalidText::{Error, Replace};
        let severity = |database, declared, convertible, invalid| {
            judge(database, declared, convertible, invalid).map(|finding| finding.severity)
        };
        for database in ["UTF8", "LATIN1"] {
            assert_eq!(severity(database, None, false, Error), None);
            let useless = severity(database, Some("LATIN1"), true, Error);
            assert_eq!(useless, Some(Severity::Error));
        }
        assert_eq!(severity(SQL_ASCII, None, false, Error), Some(Severity::Warning));
        assert_eq!(severity(SQL_ASCII, None, false, Replace), None);
        assert_eq!(severity(SQL_ASCII, Some("latin1"), true, Error), None);
        assert_eq!(severity(SQL_ASCII, Some("utf8"), false, Error), None);
        assert_eq!(severity(SQL_ASCII, Some("latin"), false, Replace), Some(Severity::Error));
    }
}
