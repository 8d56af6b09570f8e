//! Which tables are complete on a target, so that one that is published later is known as new.
//!
//! A table is complete when it was copied, or when all of its rows come in the stream: because it was published from
//! its creation on. For a table that is on no list, the catalogs of the source tell the two apart by the transactions that
//! wrote their rows; where they do not, it is copied, which is right in any case.
//!
//! A table that was on the list has rows that were brought, and may be in use: it is never emptied by itself. When
//! nothing is left of what published it (its row filter or column list changed, it was out of the publication for a
//! time), it may lack rows, and somebody has to decide; one tie more, or less, changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use crate::config::Source;
use crate::error::{Error, Kind, Result};
use crate::preflight;

/// Changes with everything that makes a table published; cheap enough to be asked for every few seconds.
const FINGERPRINT: &str = "\
SELECT pg_catalog.concat_ws('|',
       (SELECT pg_catalog.sum(pg_catalog.hashtextextended(oid || ':' || xmin, 1)::numeric) FROM pg_catalog.pg_publication),
       (SELECT pg_catalog.sum(pg_catalog.hashtextextended(oid || ':' || xmin, 2)::numeric) FROM pg_catalog.pg_publication_rel),
       (SELECT pg_catalog.sum(pg_catalog.hashtextextended(oid || ':' || xmin, 3)::numeric) FROM pg_catalog.pg_publication_namespace),
       (SELECT pg_catalog.sum(pg_catalog.hashtextextended(oid || ':' || relnamespace || relispartition::text, 4)::numeric)
          FROM pg_catalog.pg_class WHERE relkind IN ('r', 'p') AND relpersistence = 'p' AND oid >= 16384))";

/// Of each table: what publishes it, the transaction that made it, and whether it was published from there on. `born` is that of
/// a system column's row, which is never written again.
const TABLES: &str = "\
SELECT c.oid,
       pg_catalog.concat_ws(' ',
         (SELECT pg_catalog.string_agg(p.oid::text, ',' ORDER BY p.oid)
            FROM pg_catalog.pg_publication AS p WHERE p.pubname = ANY ($2) AND p.puballtables),
         (SELECT pg_catalog.string_agg(r.oid || ':' || r.xmin, ',' ORDER BY r.oid)
            FROM pg_catalog.pg_publication_rel AS r JOIN pg_catalog.pg_publication AS p ON p.oid = r.prpubid
           WHERE p.pubname = ANY ($2) AND r.prrelid = ANY (a.oids)),
         (SELECT pg_catalog.string_agg(n.oid || ':' || n.xmin, ',' ORDER BY n.oid)
            FROM pg_catalog.pg_publication_namespace AS n JOIN pg_catalog.pg_publication AS p ON p.oid = n.pnpubid
           WHERE p.pubname = ANY ($2) AND n.pnnspid IN (SELECT relnamespace FROM pg_catalog.pg_class WHERE oid = ANY (a.oids)))),
       pg_catalog.age(b.xmin),
       b.xmin = ALL (SELECT r.xmin FROM pg_catalog.pg_publication_rel AS r JOIN pg_catalog.pg_publication AS p ON p.oid = r.prpubid
                      WHERE p.pubname = ANY ($2) AND r.prrelid = c.oid)
         AND EXISTS (SELECT FROM pg_catalog.pg_publication_rel AS r JOIN pg_catalog.pg_publication AS p ON p.oid = r.prpubid
                      WHERE p.pubname = ANY ($2) AND r.prrelid = c.oid)
       OR c.xmin = b.xmin
         AND (pg_catalog.cardinality($2) = 0
           OR EXISTS (SELECT FROM pg_catalog.pg_publication AS p
                       WHERE p.pubname = ANY ($2) AND p.puballtables AND pg_catalog.age(p.xmin) > pg_catalog.age(b.xmin))
           OR EXISTS (SELECT FROM pg_catalog.pg_publication_namespace AS n JOIN pg_catalog.pg_publication AS p ON p.oid = n.pnpubid
                       WHERE p.pubname = ANY ($2) AND n.pnnspid = c.relnamespace AND pg_catalog.age(n.xmin) > pg_catalog.age(b.xmin))
           OR EXISTS (SELECT FROM pg_catalog.pg_publication_rel AS r JOIN pg_catalog.pg_publication AS p ON p.oid = r.prpubid
                       WHERE p.pubname = ANY ($2) AND r.prrelid = ANY (a.oids) AND r.prrelid <> c.oid
                         AND pg_catalog.age(r.xmin) > pg_catalog.age(b.xmin)))
  FROM pg_catalog.pg_class AS c
  JOIN pg_catalog.pg_attribute AS b ON b.attrelid = c.oid AND b.attnum = -6,
       LATERAL (SELECT pg_catalog.array_append(pg_catalog.array_agg(t.relid::oid), c.oid) AS oids
                  FROM pg_catalog.pg_partition_ancestors(c.oid) AS t) AS a
 WHERE c.oid = ANY ($1)";

const NOW: &str = "\
SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::bigint";

/// Which of them are still there.
const THERE: &str = "SELECT oid FROM pg_catalog.pg_class WHERE oid = ANY ($1)";

/// Of a table on the list that is not published now.
const OUT: &str = "out";

/// A target's list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Complete {
    /// What the source's transactions were numbered from when the list was begun: what one of these or a later one has
    /// created was not there then.
    pub since: u64,
    /// What published each table, by oid: ties that spaces and commas separate; or [`OUT`].
    pub tables: BTreeMap<u32, String>,
}

/// A table that is published now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Published {
    pub(super) oid: u32,
    /// `schema.name`.
    pub(super) name: String,
    /// Another one when it was taken out of a publication and put back, or is published in another way.
    pub(super) by: String,
    /// The transaction that created it, or an earlier one.
    pub(super) born: u64,
    /// It was published from its creation on.
    pub(super) at_once: bool,
}

/// What is published, and the number of a transaction that nothing of it is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Now {
    pub(super) next: u64,
    pub(super) tables: Vec<Published>,
}

/// What a look comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Compared {
    /// The list as it is to be.
    pub(super) list: Complete,
    /// To be copied.
    pub(super) new: Vec<Published>,
    /// Complete before, and published by something else now.
    pub(super) changed: Vec<Published>,
}

/// `there`: those on the list that the source still has. Pure.
pub(super) fn compare(list: Option<&Complete>, now: &Now, there: &BTreeSet<u32>) -> Compared {
    let entry = |table: &Published| (table.oid, table.by.clone());
    let mut tables: BTreeMap<u32, String> = now.tables.iter().map(entry).collect();
    let Some(list) = list else {
        // nobody knows more of a deployment without a list than that it is in order
        return Compared { list: Complete { since: now.next, tables }, ..Compared::default() };
    };
    for oid in list.tables.keys().filter(|oid| there.contains(oid)) {
        tables.entry(*oid).or_insert_with(|| OUT.to_owned());
    }
    let (mut new, mut changed) = (Vec::new(), Vec::new());
    for table in &now.tables {
        match list.tables.get(&table.oid) {
            Some(by) if !is_tied(by, &table.by) => changed.push(table.clone()),
            None if !(table.at_once && table.born >= list.since) => new.push(table.clone()),
            _ => {}
        }
    }
    Compared { list: Complete { since: list.since, tables }, new, changed }
}

/// Something published the table before, and still does. Without publications everything is.
fn is_tied(before: &str, now: &str) -> bool {
    let ties = |by: &str| -> BTreeSet<String> {
        by.split([' ', ',']).filter(|tie| !tie.is_empty()).map(str::to_owned).collect()
    };
    let (before, now) = (ties(before), ties(now));
    before.is_empty() || now.is_empty() && !before.contains(OUT) || !before.is_disjoint(&now)
}

/// A session with the source that looks at what is published.
pub(super) struct Looker {
    client: Client,
    /// What was seen the last time.
    fingerprint: String,
}

impl Looker {
    pub(super) async fn connect(source: &Source) -> Result<Looker> {
        let client = source.connection.clone().application_name("rsrepl").connect().await?;
        Ok(Looker { client, fingerprint: String::new() })
    }

    /// Those of these tables that there are.
    pub(super) async fn there(&self, oids: &[u32]) -> Result<BTreeSet<u32>> {
        let rows = self.client.query(THERE, &[&oids]).await;
        let oids = rows.and_then(|rows| rows.iter().map(|row| row.try_get(0)).collect());
        oids.map_err(failed)
    }

    /// What is published, if that may have changed.
    pub(super) async fn look(&mut self, source: &Source) -> Result<Option<Now>> {
        let client = &self.client;
        let row = client.query_one(FINGERPRINT, &[]).await.map_err(failed)?;
        let fingerprint: String = row.try_get(0).map_err(failed)?;
        if fingerprint == self.fingerprint {
            return Ok(None);
        }
        // before all else: what is created meanwhile is newer
        let next: i64 =
            client.query_one(NOW, &[]).await.and_then(|row| row.try_get(0)).map_err(failed)?;
        let scopes = preflight::scopes(client, source).await?;
        let names: BTreeMap<u32, String> =
            scopes.iter().map(|scope| (scope.relation.oid, scope.relation.to_string())).collect();
        let oids: Vec<u32> = names.keys().copied().collect();
        let rows = client.query(TABLES, &[&oids, &source.publications]).await.map_err(failed)?;
        let mut tables = Vec::with_capacity(rows.len());
        for row in rows {
            let oid: u32 = row.try_get(0).map_err(failed)?;
            let age: i32 = row.try_get(2).map_err(failed)?;
            let born = next.saturating_sub(i64::from(age)).max(0).cast_unsigned();
            let name = names.get(&oid).cloned().unwrap_or_default();
            let by = row.try_get(1).map_err(failed)?;
            tables.push(Published {
                oid,
                name,
                by,
                born,
                at_once: row.try_get(3).map_err(failed)?,
            });
        }
        self.fingerprint = fingerprint;
        Ok(Some(Now { next: next.cast_unsigned(), tables }))
    }
}

fn failed(error: tokio_postgres::Error) -> Error {
    let kind = if error.is_closed() { Kind::Connection } else { Kind::Server };
    Error::new(kind, "looking at what is published").because(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(oid: u32, by: &str, born: u64, at_once: bool) -> Published {
        let (name, by) = (format!("public.t{oid}"), by.to_owned());
        Published { oid, name, by, born, at_once }
    }

    fn oids(tables: &[Published]) -> Vec<u32> {
        tables.iter().map(|table| table.oid).collect()
    }

    fn now(tables: Vec<Published>) -> Now {
        Now { next: 100, tables }
    }

    #[test]
    fn what_was_not_published_from_its_creation_on_is_copied() {
        let none = BTreeSet::new();
        let first = now(vec![table(1, "a", 5, false), table(2, "a", 6, true)]);
        let Compared { list, new, changed } = compare(None, &first, &none);
        assert_eq!((list.since, list.tables.len(), new.len(), changed.len()), (100, 2, 0, 0));
        let later = now(vec![
            table(1, "a", 5, false),
            table(3, "a", 120, true),  // created since
            table(4, "a", 120, false), // created since, and added with rows
            table(5, "a", 50, true),   // of before the list
        ]);
        let found = compare(Some(&list), &later, &none);
        assert_eq!(
            (found.list.since, oids(&found.new), oids(&found.changed)),
            (100, vec![4, 5], vec![])
        );
        assert_eq!(
            found.list.tables.len(),
            4,
            "what the source does not have any more is forgotten"
        );
    }

    #[test]
    fn what_was_complete_is_never_new() {
        let there = BTreeSet::from([1, 2, 3, 4]);
        let tables = [(1, "7"), (2, "r1:2"), (3, "r2:2 n5:1"), (4, "")];
        let tables = tables.map(|(oid, by)| table(oid, by, 5, false)).into();
        let list = compare(None, &now(tables), &there).list;
        // a tie more; another row filter; out of the publication; a publication where there was none
        let later = [(1, "7 r9:9"), (2, "r3:4"), (4, "r8:1")];
        let later = now(later.map(|(oid, by)| table(oid, by, 5, false)).into());
        let found = compare(Some(&list), &later, &there);
        assert_eq!((oids(&found.new), oids(&found.changed)), (vec![], vec![2]));
        // it comes back by one of the ties that it had: rows were not sent meanwhile
        let back = now(vec![table(3, "n5:1", 5, false), table(1, "7", 5, false)]);
        let found = compare(Some(&found.list), &back, &there);
        assert_eq!((oids(&found.new), oids(&found.changed)), (vec![], vec![3]));
        assert_eq!(compare(Some(&found.list), &back, &there).changed.len(), 0, "it is told once");
    }
}
