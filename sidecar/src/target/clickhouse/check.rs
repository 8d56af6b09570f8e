//! The preflight of the target: what does not fit, all at once, without changing anything.

use std::collections::HashMap;
use std::sync::Arc;

use rsrepl_wire::Relation;

use super::client::Server;
use super::ddl::{self, Misfit, quoted};
use super::failure::Attempt;
use super::options::ClickHouseOptions;
use super::plan::Plan;
use super::policy::Unrepresentable;
use super::setup;
use super::syncs::{self, COMPLETE, SYNCS, create_list};
use super::types::ColumnType;
use crate::error::Result;
use crate::preflight::Finding;
use crate::schema::Policy;

/// Looks at the server, the rights of the user and the tables that the source's would become.
pub async fn check(options: &ClickHouseOptions, tables: &[Relation]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let looked = look(options, tables, &mut findings).await;
    findings.extend(looked.err().map(|error| Finding::from(&error)));
    findings
}

async fn look(
    options: &ClickHouseOptions,
    tables: &[Relation],
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let server = Server::new(options, format!("rsrepl-check:{}:", options.name))?;
    if let Some(misfit) = setup::too_old(&setup::version(&server).await?) {
        findings.push(finding(misfit));
        return Ok(()); // what follows may not even parse there
    }
    let has_database = setup::has_database(&server, &options.database).await?;
    let database = quoted(&options.database);
    if !has_database && !options.create_tables {
        findings.push(Finding::error(
            format!("database {database} is missing"),
            format!("CREATE DATABASE {database}, or set create_tables = true"),
        ));
    }
    rights(&server, options, has_database, findings).await?;
    if has_database && !options.create_tables {
        own(&server, options, findings).await?;
    }
    // whether this needs a right depends on the server's configuration, so it is tried
    let fenced = setup::running(&server).await;
    findings.extend(fenced.err().map(|error| Finding::from(&error)));
    let dates = setup::date_range(&server).await?;
    let mut names: HashMap<String, &Relation> = HashMap::new();
    for relation in tables {
        let name = options.target_table(&relation.schema, &relation.name);
        if let Some(other) = names.insert(name.clone(), relation) {
            findings.push(Finding::error(
                format!("tables {other} and {relation} would both become {name}"),
                "set table_name = \"{schema}_{table}\"",
            ));
        }
        match options.plan(&Arc::new(relation.clone()), name, dates) {
            Ok(plan) => table(&server, options, plan, findings).await?,
            Err(error) => findings.push(Finding::from(&error)),
        }
    }
    Ok(())
}

/// What the target does with a table must be allowed. Servers before `CHECK GRANT` are not asked.
async fn rights(
    server: &Server,
    options: &ClickHouseOptions,
    has_database: bool,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let database = format!("{}.*", quoted(&options.database));
    let mut needed = vec![
        ("SELECT", database.as_str()),
        ("INSERT", &database),
        ("TRUNCATE", &database),
        // the table function that look-ups of unchanged TOAST values hand their keys to
        ("CREATE TEMPORARY TABLE", "*.*"),
    ];
    if options.create_tables {
        needed.extend([
            ("CREATE TABLE", database.as_str()),
            ("CREATE VIEW", &database),
            ("DROP VIEW", &database), // CREATE OR REPLACE VIEW
        ]);
        if !has_database {
            needed.push(("CREATE DATABASE", &database));
        }
    }
    if options.schema_changes != Policy::Stop {
        needed.push(("ALTER COLUMN", &database));
    }
    if options.schema_changes == Policy::Apply {
        needed.push(("DROP TABLE", &database));
    }
    for (right, place) in needed {
        let sql = format!("CHECK GRANT {right} ON {place}");
        let Ok(rows) = server.rows(Attempt::Connect, &sql).await else { return Ok(()) };
        if rows.first() == Some(&0) {
            findings.push(Finding::error(
                format!("user {} lacks {right} on {place}", options.user),
                format!("GRANT {right} ON {place} TO {}", quoted(&options.user)),
            ));
        }
    }
    Ok(())
}

/// Our own tables that are not made with the others.
async fn own(
    server: &Server,
    options: &ClickHouseOptions,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let database = &options.database;
    for (name, create) in
        [(COMPLETE, create_list(database)), (SYNCS, syncs::create_statement(database))]
    {
        if setup::describe(server, database, name).await?.is_some() {
            continue;
        }
        let sql = format!("CHECK GRANT CREATE TABLE ON {}", ddl::qualified(database, name));
        let Ok(rows) = server.rows(Attempt::Connect, &sql).await else { return Ok(()) };
        if rows.first() == Some(&0) {
            findings.push(Finding::warning(
                format!(
                    "user {} may not create {name}, without which no table is copied anew, or when it is published later, \
                     nor, with copy.data = true, at first",
                    options.user
                ),
                create,
            ));
        }
    }
    Ok(())
}

async fn table(
    server: &Server,
    options: &ClickHouseOptions,
    mut plan: Plan,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let database = &options.database;
    match setup::describe(server, database, &plan.storage()).await? {
        Some(existing) => {
            findings.extend(ddl::compare(database, &mut plan, &existing).into_iter().map(finding));
        }
        None if options.create_tables => {}
        None => findings.push(finding(setup::missing(database, &plan))),
    }
    let relation = &plan.relation;
    for (target, column) in plan.columns.iter().zip(&relation.columns) {
        let array = matches!(target.ty, ColumnType::Array(_) | ColumnType::Matrix(_));
        if array && !column.not_null && target.policy == Unrepresentable::Error {
            let name = format!("{relation}.{}", column.name);
            findings.push(Finding::warning(
                format!("a NULL array in {name} would stop the target: ClickHouse has none"),
                match target.chosen {
                    false => format!("columns = {{ {name:?} = \"string\" }} or \"null\""),
                    true => format!(
                        "columns = {{ {name:?} = {{ type = …, unrepresentable = \"null\" }} }}"
                    ),
                },
            ));
        }
    }
    Ok(())
}

fn finding(misfit: Misfit) -> Finding {
    Finding::error(misfit.what, misfit.mend)
}
