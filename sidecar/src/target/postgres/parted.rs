//! A TRUNCATE of which another stream has a part ([`crate::sync::share`]): a foreign key between the two parts does not
//! let either be truncated by itself, whatever `session_replication_role` says.

use tokio_postgres::Client;

use super::catalog::TargetTable;

/// Which of the tables named (from 1 on) a foreign key of which other one of them, or of none of them, refers to.
const REFERENCES: &str = "\
WITH named AS (
       SELECT n.place, n.name::pg_catalog.regclass::oid AS oid FROM pg_catalog.unnest($1::text[]) WITH ORDINALITY AS n(name, place)),
     every AS (
       SELECT place, oid FROM named
       UNION SELECT n.place, p.relid::oid FROM named AS n, LATERAL pg_catalog.pg_partition_tree(n.oid) AS p)
SELECT DISTINCT t.place, f.place
  FROM every AS t JOIN pg_catalog.pg_constraint AS k ON k.confrelid = t.oid AND k.contype = 'f'
  LEFT JOIN every AS f ON f.oid = k.conrelid
 WHERE f.place IS DISTINCT FROM t.place";

/// Sequences that belong to a table.
const SEQUENCES: &str = "\
SELECT pg_catalog.format('ALTER SEQUENCE %I.%I RESTART', n.nspname, s.relname)
  FROM pg_catalog.pg_depend AS d
  JOIN pg_catalog.pg_class AS s ON s.oid = d.objid AND s.relkind = 'S'
  JOIN pg_catalog.pg_namespace AS n ON n.oid = s.relnamespace
 WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refclassid = d.classid
   AND d.deptype IN ('a', 'i') AND d.refobjid = $1::text::pg_catalog.regclass::oid";

/// Empties tables: those that others refer to row by row. Constraints are not looked at, as with all rows of a stream: when
/// the other stream has done its part, they hold again.
pub(super) async fn empty(
    client: &Client,
    tables: &[&TargetTable],
    restart_identity: bool,
) -> Result<(), tokio_postgres::Error> {
    let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
    let mut references = Vec::new();
    for row in client.query(REFERENCES, &[&names]).await? {
        references.push((row.try_get::<_, i64>(0)?, row.try_get::<_, Option<i64>>(1)?));
    }
    let deleted = one_by_one(&references);
    let (mut truncated, mut rows) = (Vec::new(), Vec::new());
    for (table, place) in tables.iter().zip(1..) {
        if deleted.contains(&place) { rows.push(*table) } else { truncated.push(*table) }
    }
    for table in rows {
        client.batch_execute(&format!("DELETE FROM {}", table.only())).await?;
        if restart_identity {
            for row in client.query(SEQUENCES, &[&table.name]).await? {
                client.batch_execute(row.try_get(0)?).await?;
            }
        }
    }
    if truncated.is_empty() {
        return Ok(());
    }
    client.batch_execute(&TargetTable::truncate(&truncated, restart_identity)).await
}

/// The places of tables that a TRUNCATE of the rest may not have: those that something refers to that is not in it. Pure.
fn one_by_one(references: &[(i64, Option<i64>)]) -> Vec<i64> {
    let mut out: Vec<i64> = Vec::new();
    loop {
        let next = references
            .iter()
            .find(|(of, by)| !out.contains(of) && by.is_none_or(|by| out.contains(&by)));
        match next {
            Some((of, _)) => out.push(*of),
            None => return out,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::one_by_one;

    #[test]
    fn what_is_referred_to_from_outside_is_emptied_row_by_row() {
        assert_eq!(one_by_one(&[]), Vec::<i64>::new());
        assert_eq!(one_by_one(&[(1, Some(2))]), Vec::<i64>::new(), "both are in it");
        assert_eq!(one_by_one(&[(1, None)]), [1]);
        // 1 <- 2 <- outside: without 2, 1 is referred to from outside, too
        assert_eq!(one_by_one(&[(1, Some(2)), (2, None), (3, Some(1))]), [2, 1, 3]);
    }
}
