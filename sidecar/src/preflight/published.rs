//! What publications publish of the tables that there are, and as what it is shown: what the plugin will
//! decide, from the catalogs as they are now.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Those that are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Operations {
    pub insert: bool,
    pub update: bool,
    pub delete: bool,
    pub truncate: bool,
}

impl Operations {
    pub const ALL: Operations =
        Operations { insert: true, update: true, delete: true, truncate: true };

    /// UPDATEs or DELETEs are sent, so that rows must be identified.
    pub fn identify(self) -> bool {
        self.update || self.delete
    }

    fn or(self, other: Operations) -> Operations {
        Operations {
            insert: self.insert || other.insert,
            update: self.update || other.update,
            delete: self.delete || other.delete,
            truncate: self.truncate || other.truncate,
        }
    }
}

/// A publication that is replicated.
#[derive(Clone, Debug, Default)]
pub(super) struct Publication {
    pub(super) oid: u32,
    pub(super) name: String,
    pub(super) all_tables: bool,
    pub(super) via_root: bool,
    pub(super) operations: Operations,
}

/// A table that is named in a publication.
#[derive(Clone, Debug, Default)]
pub(super) struct Named {
    /// Numbers of the columns that are published; `None`: all.
    pub(super) columns: Option<Vec<i16>>,
    /// Numbers of the columns that its row filter looks at.
    pub(super) filter: Option<Vec<i16>>,
    /// That filter as an SQL condition.
    pub(super) condition: Option<String>,
}

/// A table with rows of its own.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    pub(super) oid: u32,
    /// The partitioned tables above it, the nearest first.
    pub(super) ancestors: Vec<u32>,
}

/// What the catalogs say.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    pub(super) publications: Vec<Publication>,
    /// By publication and table.
    pub(super) named: HashMap<(u32, u32), Named>,
    /// Publications with schemas.
    pub(super) schemas: HashSet<(u32, u32)>,
    /// The schema of each table, of partitioned ones too.
    pub(super) schema_of: HashMap<u32, u32>,
}

/// A table as the stream shows it.
#[derive(Clone, Debug, Default)]
pub(super) struct Published {
    pub(super) oid: u32,
    pub(super) operations: Operations,
    /// The publications that decide on its columns and rows.
    pub(super) by: Vec<By>,
}

/// What one publication says of a table.
#[derive(Clone, Debug, Default)]
pub(super) struct By {
    pub(super) publication: String,
    /// It publishes UPDATEs or DELETEs.
    pub(super) changes: bool,
    pub(super) named: Named,
}

impl Published {
    /// Everything of a table.
    pub(super) fn whole(oid: u32) -> Self {
        Published { oid, operations: Operations::ALL, by: Vec::new() }
    }

    /// What rows have to satisfy of which the copy is made: one of the filters, unless a publication has none.
    pub(super) fn condition(&self) -> Option<String> {
        let all: Option<Vec<_>> = self.by.iter().map(|by| by.named.condition.as_deref()).collect();
        let all: BTreeSet<&str> = all?.into_iter().collect();
        let each: Vec<String> = all.into_iter().map(|one| format!("({one})")).collect();
        (!each.is_empty()).then(|| each.join(" OR "))
    }

    /// Numbers of the columns that come; `None`: all.
    pub(super) fn columns(&self) -> Option<&[i16]> {
        let lists: Option<Vec<_>> = self.by.iter().map(|by| by.named.columns.as_ref()).collect();
        lists?.first().map(|list| list.as_slice())
    }
}

impl Catalog {
    /// The tables that come, each once, by oid.
    pub(super) fn published(&self, tables: &[Table]) -> Vec<Published> {
        let mut all = BTreeMap::new();
        for published in tables.iter().filter_map(|table| self.of(table)) {
            // partitions of one table differ in what publications of their own add
            let known: &mut Published =
                all.entry(published.oid).or_insert_with(|| published.clone());
            known.operations = known.operations.or(published.operations);
        }
        all.into_values().collect()
    }

    /// What a table with rows of its own is shown as.
    pub(super) fn of(&self, table: &Table) -> Option<Published> {
        let mut found: Option<(usize, Published)> = None;
        for publication in &self.publications {
            let Some((level, oid)) = self.shown_by(publication, table) else { continue };
            let (best, published) =
                found.get_or_insert_with(|| (level, Published { oid, ..Published::default() }));
            published.operations = published.operations.or(publication.operations);
            if level > *best {
                *best = level;
                published.oid = oid;
                published.by.clear();
            }
            if level == *best {
                published.by.push(By {
                    publication: publication.name.clone(),
                    changes: publication.operations.identify(),
                    named: self.named_in(publication, oid),
                });
            }
        }
        found.map(|(_, published)| published)
    }

    /// The table that a publication shows another one as, and how far above it is.
    fn shown_by(&self, publication: &Publication, table: &Table) -> Option<(usize, u32)> {
        let published = |oid: u32| publication.all_tables || self.has(publication, oid);
        let top = table.ancestors.iter().zip(1..).filter(|(oid, _)| published(**oid)).last();
        match top {
            Some((oid, level)) if publication.via_root => Some((level, *oid)),
            Some(_) => Some((0, table.oid)),
            None => published(table.oid).then_some((0, table.oid)),
        }
    }

    fn has(&self, publication: &Publication, table: u32) -> bool {
        self.named.contains_key(&(publication.oid, table)) || self.has_schema(publication, table)
    }

    fn has_schema(&self, publication: &Publication, table: u32) -> bool {
        let schema = self.schema_of.get(&table);
        schema.is_some_and(|schema| self.schemas.contains(&(publication.oid, *schema)))
    }

    fn named_in(&self, publication: &Publication, table: u32) -> Named {
        let named = self.named.get(&(publication.oid, table)).filter(|_| !publication.all_tables);
        let mut named = named.cloned().unwrap_or_default();
        if self.has_schema(publication, table) {
            named.filter = None;
            named.condition = None;
        }
        named
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publication(oid: u32, via_root: bool) -> Publication {
        let name = format!("p{oid}");
        let operations = Operations { insert: true, ..Operations::default() };
        Publication { oid, name, via_root, operations, ..Publication::default() }
    }

    fn catalog(publications: Vec<Publication>, named: &[(u32, u32)]) -> Catalog {
        let schema_of = [1, 10, 11, 12].map(|table| (table, 100)).into();
        let named = named.iter().map(|pair| (*pair, Named::default())).collect();
        Catalog { publications, named, schema_of, ..Catalog::default() }
    }

    /// 12 and 13 are partitions of 11, and that is one of 10.
    fn tables() -> [Table; 3] {
        let ancestors = vec![11, 10];
        [
            Table { oid: 1, ancestors: Vec::new() },
            Table { oid: 12, ancestors: ancestors.clone() },
            Table { oid: 13, ancestors },
        ]
    }

    fn shown(catalog: &Catalog) -> Vec<(u32, Vec<String>)> {
        let published = catalog.published(&tables()).into_iter();
        published.map(|p| (p.oid, p.by.into_iter().map(|by| by.publication).collect())).collect()
    }

    #[test]
    fn a_partition_is_shown_as_the_topmost_table_that_a_publication_has() {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let (leaves, root) = (publication(1, false), publication(2, true));
        let found = shown(&catalog(vec![leaves.clone()], &[(1, 10)]));
        assert_eq!(found, [(12, names(&["p1"])), (13, names(&["p1"]))]);
        let found = shown(&catalog(vec![leaves.clone(), root.clone()], &[(1, 10), (2, 11)]));
        assert_eq!(found, [(11, names(&["p2"]))]);
        let top = publication(3, true);
        let named = [(1, 12), (2, 11), (3, 10)];
        let found = shown(&catalog(vec![leaves.clone(), top, root.clone()], &named));
        assert_eq!(found, [(10, names(&["p3"]))]);
        let found = shown(&catalog(vec![leaves, root], &[(1, 1), (2, 12)]));
        assert_eq!(found, [(1, names(&["p1"])), (12, names(&["p2"]))]);
        let all = Publication { all_tables: true, ..publication(1, true) };
        let found = shown(&catalog(vec![all], &[]));
        assert_eq!(found, [(1, names(&["p1"])), (10, names(&["p1"]))]);
    }

    #[test]
    fn a_schema_switches_filters_off_and_leaves_lists() {
        let condition = Some("a > 0".to_owned());
        let listed = Named { columns: Some(vec![1, 2]), filter: Some(vec![1]), condition };
        let mut catalog = catalog(vec![publication(1, false)], &[]);
        catalog.named.insert((1, 1), listed);
        let published = catalog.published(&tables());
        assert_eq!(published[0].columns(), Some(&[1, 2][..]));
        assert!(published[0].by[0].named.filter.is_some());
        assert_eq!(published[0].condition().as_deref(), Some("(a > 0)"));
        catalog.schemas.insert((1, 100));
        let published = catalog.published(&tables());
        assert!(published[0].by[0].named.filter.is_none());
        assert_eq!(published[0].condition(), None);
        catalog.publications.push(publication(2, false));
        catalog.named.insert((2, 1), Named::default());
        assert_eq!(catalog.published(&tables())[0].columns(), None);
    }

    #[test]
    fn a_row_is_copied_that_one_of_the_filters_lets_through() {
        let by = |condition: Option<&str>| By {
            named: Named { condition: condition.map(str::to_owned), ..Named::default() },
            ..By::default()
        };
        let condition = |by: Vec<By>| Published { by, ..Published::default() }.condition();
        let (a, b) = (by(Some("a")), by(Some("b")));
        let found = condition(vec![b.clone(), a.clone(), b.clone()]);
        assert_eq!(found.as_deref(), Some("(a) OR (b)"));
        assert_eq!(condition(vec![a, by(None)]), None);
        assert_eq!(condition(Vec::new()), None);
    }
}
