//! The preflight of a target: everything that is missing, at once. Changes nothing.

use rsrepl_wire::Relation;
use tokio_postgres::Client;

use super::PostgresOptions;
use super::catalog::{self, Unfit};
use super::create;
use super::errors;
use super::origin;
use super::positions;
use super::records::{self, Record};
use super::session;
use super::sql::ident;
use super::syncs;
use super::syncs::statements::{CREATE as CREATE_SYNCS, CREATE_COMPLETE};
use crate::preflight::Finding;
use crate::schema::{Policy, Table};

/// What PostgreSQL a target needs at least (`server_version_num`): generated columns.
const VERSION_MIN: i32 = 120_000;

const PRIVILEGES: &str = "\
SELECT pg_catalog.current_setting('server_version_num')::int,
       pg_catalog.has_database_privilege(pg_catalog.current_database(), 'TEMPORARY'),
       pg_catalog.to_regclass('rsrepl.positions') IS NOT NULL,
       pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE'),
       pg_catalog.current_database()::text,
       pg_catalog.to_regclass('rsrepl.tables') IS NOT NULL,
       COALESCE((SELECT pg_catalog.has_schema_privilege(oid, 'CREATE')
                   FROM pg_catalog.pg_namespace WHERE nspname = 'rsrepl'), false)";

/// Of our own tables, those that are not there, and what is not granted on those that are.
const OWN: &str = "\
SELECT t.name, c.oid IS NULL,
       pg_catalog.array_to_string(ARRAY(
         SELECT p.name FROM pg_catalog.unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS p (name)
          WHERE NOT pg_catalog.has_table_privilege(c.oid, p.name)), ', ')
  FROM pg_catalog.unnest(ARRAY['positions', 'tables', 'copies', 'copied_chunks', 'complete', 'syncs']) AS t (name)
  LEFT JOIN (pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n
               ON n.oid = c.relnamespace AND n.nspname = 'rsrepl') ON c.relname = t.name";

/// What somebody gave up, and nobody has asked for since.
const GIVEN_UP: &str = "\
SELECT table_name FROM rsrepl.syncs WHERE slot = $1 AND stage = 'given up' ORDER BY 1";

/// Only the owner may alter a table.
const OWNS: &str = "\
SELECT pg_catalog.pg_has_role(relowner, 'USAGE') FROM pg_catalog.pg_class
 WHERE oid = $1::text::regclass";

const TABLE_PRIVILEGES: &str = "\
SELECT p.name FROM pg_catalog.unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE'])
         AS p (name)
 WHERE NOT pg_catalog.has_table_privilege($1::text::regclass, p.name)";

/// What keeps a target from being written to from `slot`. `relations` are the source's tables; only names,
/// types and keys of their columns matter, not how they are encoded.
pub async fn check(options: &PostgresOptions, slot: &str, relations: &[Relation]) -> Vec<Finding> {
    let target = &options.name;
    let client = match session::open(target, &options.connection).await {
        Ok(client) => client,
        Err(error) => return vec![Finding::from(&error)],
    };
    let mut findings = Vec::new();
    if let Err(error) = check_all(options, &client, slot, relations, &mut findings).await {
        let error = errors::of_server(target, "checking the target", error);
        findings.push(Finding::from(&error));
    }
    findings
}

async fn check_all(
    options: &PostgresOptions,
    client: &Client,
    slot: &str,
    relations: &[Relation],
    findings: &mut Vec<Finding>,
) -> Result<(), tokio_postgres::Error> {
    let records_exist = check_privileges(options, client, findings).await?;
    check_own(options, client, slot, findings).await?;
    findings.extend(origin::check(&options.name, client, slot, options.workers).await?);
    let follows = options.schema_changes != Policy::Stop;
    let creates = match &options.creates {
        Some(source) if create::applies(client, slot).await? => Some(source),
        _ => None,
    };
    let mut to_create = Vec::new();
    for relation in relations.iter().filter(|relation| !positions::is_ours(relation)) {
        let record = match records_exist {
            true => records::read(client, slot, relation.oid).await?,
            false => None,
        };
        let unfit = match catalog::resolve(client, relation, record.as_ref()).await {
            Err(Unfit::Server(error)) => return Err(error),
            Err(Unfit::Findings(_)) if follows && is_on_its_way(record.as_ref(), relation) => {
                continue;
            }
            Err(Unfit::Findings(unfit))
                if creates.is_some() && unfit == [catalog::missing(relation)] =>
            {
                to_create.push(relation);
                continue;
            }
            Err(Unfit::Findings(unfit)) if follows && unfit == [catalog::missing(relation)] => {
                vec![Finding::warning(
                    format!("table {relation} is missing, and will be made with its first row"),
                    "load the rows that the source has by now, if they are wanted",
                )]
            }
            Err(Unfit::Findings(unfit)) => unfit,
            Ok(table) => check_table(options, client, relation, &table, creates.is_some()).await?,
        };
        findings.extend(named(options, unfit));
    }
    findings.extend(named(options, create::check(client, creates, slot, &to_create).await?));
    Ok(())
}

fn named(options: &PostgresOptions, findings: Vec<Finding>) -> impl Iterator<Item = Finding> {
    findings.into_iter().map(|finding| Finding {
        what: format!("target {}: {}", options.name, finding.what),
        ..finding
    })
}

/// The target's table fits an earlier description, and the stream will bring this one.
fn is_on_its_way(record: Option<&Record>, relation: &Relation) -> bool {
    record.is_some_and(|record| {
        let now = Table::of_relation(relation).completed_by(&record.table);
        (&now.schema, &now.name, &now.columns)
            != (&record.table.schema, &record.table.name, &record.table.columns)
    })
}

async fn check_privileges(
    options: &PostgresOptions,
    client: &Client,
    findings: &mut Vec<Finding>,
) -> Result<bool, tokio_postgres::Error> {
    let (target, user) = (&options.name, options.connection.user());
    let row = client.query_one(PRIVILEGES, &[]).await?;
    let version: i32 = row.try_get(0)?;
    if version < VERSION_MIN {
        findings.push(Finding::error(
            format!("target {target}: PostgreSQL {version} is too old, 12 is the oldest"),
            "upgrade the target's server",
        ));
    }
    let database = ident(&row.try_get::<_, String>(4)?);
    if !row.try_get::<_, bool>(1)? {
        findings.push(Finding::error(
            format!("target {target}: {user} may not create temporary tables"),
            format!("GRANT TEMPORARY ON DATABASE {database} TO {}", ident(user)),
        ));
    }
    let (exists, may_create): (bool, bool) = (row.try_get(2)?, row.try_get(3)?);
    let (records_exist, may_make): (bool, bool) = (row.try_get(5)?, row.try_get(6)?);
    if !exists && !may_create {
        findings.push(Finding::error(
            format!(
                "target {target}: {user} may not create rsrepl.positions, rsrepl.tables and others"
            ),
            format!(
                "{}; {}; {}",
                positions::create_for(user),
                records::create_for(user),
                syncs::create_for(user)
            ),
        ));
    } else if exists && !records_exist && !may_make {
        findings.push(Finding::error(
            format!("target {target}: {user} may not create rsrepl.tables"),
            records::create_for(user),
        ));
    }
    Ok(records_exist)
}

/// The tables that are made later, and what is granted on all.
async fn check_own(
    options: &PostgresOptions,
    client: &Client,
    slot: &str,
    findings: &mut Vec<Finding>,
) -> Result<(), tokio_postgres::Error> {
    let (target, user) = (&options.name, ident(options.connection.user()));
    let row = client.query_one(PRIVILEGES, &[]).await?;
    // nothing is there yet, and it may make everything; or it has been told of
    let (exists, may_make): (bool, bool) = (row.try_get(2)?, row.try_get(6)?);
    if !exists {
        return Ok(());
    }
    let mut has_syncs = false;
    for row in client.query(OWN, &[]).await? {
        let (name, is_missing): (&str, bool) = (row.try_get(0)?, row.try_get(1)?);
        let later = [("complete", CREATE_COMPLETE), ("syncs", CREATE_SYNCS)];
        let later = later.into_iter().find(|(later, _)| *later == name);
        let grant = |what: &str| format!("GRANT {what} ON rsrepl.{name} TO {user}");
        if let (true, Some((_, create)), false) = (is_missing, later, may_make) {
            findings.push(Finding::warning(
                format!(
                    "target {target}: {user} may not create rsrepl.{name}, without which no table is copied anew, or when it \
                     is published later, nor, with copy.data = true, at first"
                ),
                format!("{create}; {}", grant("SELECT, INSERT, UPDATE, DELETE")),
            ));
        }
        let lacks: &str = row.try_get(2)?;
        if !is_missing && !lacks.is_empty() {
            findings.push(Finding::error(
                format!("target {target}: {user} lacks {lacks} on rsrepl.{name}"),
                grant(lacks),
            ));
        }
        has_syncs |= name == "syncs" && !is_missing && lacks.is_empty();
    }
    if has_syncs {
        for row in client.query(GIVEN_UP, &[&slot]).await? {
            let table: &str = row.try_get(0)?;
            findings.push(Finding::warning(
                format!("target {target}: {table} was given up half copied, and gets no changes"),
                format!("rsrepl resync {table} --target {target}"),
            ));
        }
    }
    Ok(())
}

/// `keys_come`: they are made behind the rows of a copy.
async fn check_table(
    options: &PostgresOptions,
    client: &Client,
    relation: &Relation,
    table: &catalog::TargetTable,
    keys_come: bool,
) -> Result<Vec<Finding>, tokio_postgres::Error> {
    let mut findings = Vec::new();
    let name = &table.name;
    let rows = client.query(TABLE_PRIVILEGES, &[name]).await?;
    let missing = rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<String>, _>>()?;
    if !missing.is_empty() {
        let (missing, user) = (missing.join(", "), options.connection.user());
        findings.push(Finding::error(
            format!("{user} lacks {missing} on {relation}"),
            format!("GRANT {missing} ON {name} TO {}", ident(user)),
        ));
    }
    let owns: bool = client.query_one(OWNS, &[name]).await?.try_get(0)?;
    if options.schema_changes != Policy::Stop && !owns {
        let user = options.connection.user();
        findings.push(Finding::warning(
            format!("{user} does not own {relation}: it cannot make the changes that the source makes to it"),
            format!("ALTER TABLE {name} OWNER TO {}, or schema_changes = \"stop\"", ident(user)),
        ));
    }
    if table.keyed && !table.unique_key && !keys_come {
        findings.push(Finding::warning(
            format!(
                "no unique index of {relation} on the target covers its key: updates and deletes \
                 are applied row by row"
            ),
            format!("ALTER TABLE {name} ADD PRIMARY KEY ({})", key_list(relation)),
        ));
    }
    Ok(findings)
}

fn key_list(relation: &Relation) -> String {
    let keys: Vec<_> = relation.columns.iter().filter(|c| c.key).map(|c| ident(&c.name)).collect();
    keys.join(", ")
}
