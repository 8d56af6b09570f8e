//! What `create_tables` would do, for the preflight. Changes nothing.

use rsrepl_wire::Relation;
use tokio_postgres::Client;

use super::{LIST_EXISTS, PgError, tools, version};
use crate::error::{Error, Kind, Result};
use crate::preflight::Finding;
use crate::target::postgres::sql::literal;
use crate::tls::PgConnect;

/// Tables that a finding names.
const NAMED_MAX: usize = 10;

const POSITIONED: &str = "\
SELECT EXISTS (SELECT FROM rsrepl.positions WHERE slot = $1 AND applied_lsn <> '0/0')";

const POSITIONS_EXIST: &str = "SELECT pg_catalog.to_regclass('rsrepl.positions') IS NOT NULL";

const REFUSED: &str = "\
SELECT place, type, name, refused FROM rsrepl.to_create
 WHERE slot = $1 AND refused IS NOT NULL ORDER BY place";

/// Whether missing tables will be made: nothing has been replicated from `slot` yet.
pub async fn applies(client: &Client, slot: &str) -> Result<bool, PgError> {
    let exist: bool = client.query_one(POSITIONS_EXIST, &[]).await?.try_get(0)?;
    if !exist {
        return Ok(true);
    }
    Ok(!client.query_one(POSITIONED, &[&slot]).await?.try_get::<_, bool>(0)?)
}

/// What would be made of the tables that are missing, what keeps it from being made, and what could not be made.
pub async fn check(
    client: &Client,
    source: Option<&PgConnect>,
    slot: &str,
    missing: &[&Relation],
) -> Result<Vec<Finding>, PgError> {
    let mut findings = refused(client, slot).await?;
    let Some(source) = source.filter(|_| !missing.is_empty()) else { return Ok(findings) };
    let named: Vec<String> = missing.iter().take(NAMED_MAX).map(ToString::to_string).collect();
    let more = if missing.len() > named.len() { ", …" } else { "" };
    let (count, named) = (missing.len(), named.join(", "));
    findings.push(Finding::warning(
        format!("{count} missing tables will be made with pg_dump, as they are on the source: {named}{more}"),
        "none is needed; to have one otherwise, make it beforehand",
    ));
    if let Err(error) = tools_fit(source).await {
        findings.push(Finding::from(&error));
    }
    Ok(findings)
}

async fn tools_fit(source: &PgConnect) -> Result<()> {
    let client = source.clone().application_name("rsrepl check").connect().await?;
    let failed =
        |error| Error::new(Kind::Server, "the source: asking for its version").because(error);
    tools::check(version(&client).await.map_err(failed)?).await
}

async fn refused(client: &Client, slot: &str) -> Result<Vec<Finding>, PgError> {
    if !client.query_one(LIST_EXISTS, &[]).await?.try_get::<_, bool>(0)? {
        return Ok(Vec::new());
    }
    let finding = |row: &tokio_postgres::Row| {
        let (place, kind, name): (i64, String, String) =
            (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let why: String = row.try_get(3)?;
        let slot = literal(slot);
        Ok(Finding::warning(
            format!("{kind} {name} could not be made: {why}"),
            format!(
                "make it (its statements are in rsrepl.to_create), or do without; then DELETE FROM rsrepl.to_create \
                 WHERE slot = {slot} AND place = {place}"
            ),
        ))
    };
    client.query(REFUSED, &[&slot]).await?.iter().map(finding).collect()
}
