//! What the target could do at best: the same rows by `COPY` from files of its own.
//!
//! One session for each table, all at once, a transaction each; there is no source, no network and
//! nobody to convert anything. No replication can be faster on the same machine.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Instant;

use crate::measure::{CpuSeconds, sessions_cpu};
use crate::servers::{Backlog, DATABASE, Servers, execute, fingerprint};
use crate::workload::Workload;

/// The backlog's tables as files in COPY's binary format.
pub struct Files {
    tables: &'static [&'static str],
    folder: PathBuf,
}

impl Files {
    /// Lets the source write them.
    pub fn export(servers: &Servers, workload: &Workload) -> Result<Files, String> {
        // Both servers run as one user, who owns what is in their folders.
        let folder = servers.scratch.join("source/data");
        let mut source = servers.source.client(DATABASE);
        let files = Files { tables: workload.tables, folder };
        for table in files.tables {
            let path = files.path(table);
            execute(&mut source, &format!("COPY {table} TO '{path}' (FORMAT binary)"))?;
        }
        Ok(files)
    }

    fn path(&self, table: &str) -> String {
        self.folder.join(format!("{table}.copy")).display().to_string()
    }

    /// Copies them into a database of its own: wall and CPU seconds.
    pub fn copy(
        &self,
        servers: &Servers,
        backlog: &Backlog,
        run: u32,
    ) -> Result<(f64, CpuSeconds), String> {
        let database = format!("bench_{run}_copy");
        let mut client = servers.target_database(&database)?;
        let databases = [database.clone()];
        let postmaster = servers.target.process().pid();
        let sessions = self.tables.iter().map(|_| servers.target.client(&database));
        let sessions: Vec<_> = sessions.collect();
        let before = sessions_cpu(&mut client, postmaster, &databases)?;
        let start = Instant::now();
        let sessions = thread::scope(|scope| {
            let copies = sessions.into_iter().zip(self.tables).map(|(mut session, table)| {
                let statement = format!("COPY {table} FROM '{}' (FORMAT binary)", self.path(table));
                scope.spawn(move || execute(&mut session, &statement).map(|()| session))
            });
            let copies: Vec<_> = copies.collect();
            let done = copies.into_iter().map(|c| c.join().map_err(|_| "a panic".to_owned())?);
            done.collect::<Result<Vec<_>, String>>()
        })?;
        let wall = start.elapsed().as_secs_f64();
        let cpu = sessions_cpu(&mut client, postmaster, &databases)? - before;
        drop(sessions);
        let found = fingerprint(&mut client, self.tables)?;
        if found != backlog.fingerprint {
            return Err(format!("the rows differ: {found}, not {}", backlog.fingerprint));
        }
        drop(client);
        servers.drop_target(&database)?;
        Ok((wall, vec![("target", cpu)]))
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        for table in self.tables {
            let _ = fs::remove_file(self.path(table));
        }
    }
}
