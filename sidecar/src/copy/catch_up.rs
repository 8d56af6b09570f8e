//! From one round to the next: what the stream takes away between the two snapshots is taken away on the
//! targets.

use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use rsrepl_wire::Lsn;
use tokio::time::{Interval, MissedTickBehavior};
use tracing::info;

use super::site::Site;
use super::{BEGIN_ANEW, CopiedTable, Snapshot};
use crate::assemble::{Assembler, Checkpoint};
use crate::batch::{Batch, Change, Operation};
use crate::config::Source;
use crate::error::{Error, Kind, Result};
use crate::pipeline::plugin_options;
use crate::source::{self, Event, ReplicationClient, ReplicationStream, StatusUpdate};
use crate::spool::Item;

/// Changes that are handed to the targets at a time, and the bytes of their frames.
const BATCH_ROWS: usize = 10_000;
const BATCH_BYTES: usize = 8 << 20;

/// How often the source hears from us, and is asked how far it is.
const TICK: Duration = Duration::from_millis(200);

/// Reads the slot's stream up to `to` and applies what it takes away to what each site has copied. Nothing is
/// confirmed.
pub(super) async fn catch_up(
    source: &Source,
    sites: &mut [Site],
    tables: &[Arc<CopiedTable>],
    to: Snapshot,
) -> Result<()> {
    let behind =
        |site: &&Site| !site.records.chunks.is_empty() && site.records.caught_up.lsn < to.lsn;
    let Some(from) = sites.iter().filter(behind).map(|site| site.records.caught_up.lsn).min()
    else {
        return Ok(());
    };
    info!(%from, to = %to.lsn, "the copy goes on: reading what was changed since the last snapshot");
    let tables: HashMap<u32, &Arc<CopiedTable>> =
        tables.iter().map(|table| (table.relation.oid, table)).collect();
    let (mut stream, confirmed) = start(source, from).await?;
    let status = StatusUpdate { written: confirmed, flushed: confirmed, applied: confirmed };
    let mut assembler = Assembler::resume(&Checkpoint::default(), from);
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut more, mut sequence) = (false, 0);
    loop {
        let event = tokio::select! {
            event = stream.next() => event?,
            _ = ticks.tick() => {
                stream.send_status(status, true).await?;
                continue;
            }
        };
        match event {
            Event::Frame { frame, .. } => {
                more = frame.more();
                sequence += 1;
                assembler.push(sequence, Item::Frame(frame))?;
            }
            // nothing that ends below is still to come
            Event::Keepalive { wal_end, .. } if wal_end >= to.lsn && !more => break,
            Event::Keepalive { .. } | Event::Silence => {}
            Event::End => {
                return Err(Error::new(Kind::Connection, "the source ended the stream"));
            }
        }
        if assembler.rows() >= BATCH_ROWS || assembler.bytes() >= BATCH_BYTES {
            let (batch, _) = assembler.take();
            let last = batch.changes.last().map(|change| change.end_lsn);
            let applied = apply(sites, &tables, batch, to.lsn);
            answering(&mut stream, status, &mut ticks, applied).await?;
            if last > Some(to.lsn) {
                break;
            }
        }
    }
    let (batch, _) = assembler.take();
    let applied = apply(sites, &tables, batch, to.lsn);
    answering(&mut stream, status, &mut ticks, applied).await?;
    // what the source has sent beyond is not ours; that the stream ends with an error changes nothing
    let _ = stream.close(status).await;
    Ok(())
}

/// The source ends a stream that it hears nothing of.
async fn answering(
    stream: &mut ReplicationStream,
    status: StatusUpdate,
    ticks: &mut Interval,
    work: impl Future<Output = Result<()>>,
) -> Result<()> {
    let mut work = pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = ticks.tick() => stream.send_status(status, false).await?,
        }
    }
}

async fn start(source: &Source, from: Lsn) -> Result<(ReplicationStream, Lsn)> {
    let mut client = ReplicationClient::connect(&source.connection).await?;
    let info = source::identify(&mut client, &source.slot_name).await?;
    let slot = client.slot(&source.slot_name).await?;
    let slot = slot.ok_or_else(|| {
        let message = format!("slot {} is gone, and with it what the copy needs", source.slot_name);
        Error::new(Kind::Identity, message).hint(BEGIN_ANEW)
    })?;
    let confirmed = source::verify_slot(&info, &slot, source::PLUGIN)?;
    if confirmed > from {
        let message = format!(
            "slot {} was moved to {confirmed}, and the copy has only got to {from}",
            source.slot_name
        );
        return Err(Error::new(Kind::Identity, message).hint(BEGIN_ANEW));
    }
    let options = plugin_options(source, false);
    Ok((client.start(&source.slot_name, from, &options).await?, confirmed))
}

/// Hands each site what it has chunks of and has not had yet; up to `to`.
async fn apply(
    sites: &mut [Site],
    tables: &HashMap<u32, &Arc<CopiedTable>>,
    batch: Batch,
    to: Lsn,
) -> Result<()> {
    for site in sites {
        let from = site.records.caught_up.lsn;
        let mut copied: HashSet<u32> = site.records.chunks.iter().map(|r| r.table).collect();
        let mut gathered: Vec<Change> = Vec::new();
        for change in &batch.changes {
            let oid = change.relation.oid;
            let ours = change.end_lsn > from && change.end_lsn <= to;
            let (true, true, Some(table)) = (ours, copied.contains(&oid), tables.get(&oid)) else {
                continue;
            };
            match change.operation {
                Operation::Insert { .. } | Operation::Schema(_) => {}
                Operation::Update { .. } | Operation::Delete { .. }
                    if change.relation.columns == table.relation.columns =>
                {
                    gathered.push(change.clone());
                }
                // emptied, or another table for a while
                _ => {
                    gathered.retain(|change| change.relation.oid != oid);
                    let why = "it was truncated or altered meanwhile";
                    site.start_over(oid, Some(&***table), why, false).await?;
                    copied.remove(&oid);
                }
            }
        }
        if !gathered.is_empty() {
            site.target.lock().await.catch_up(gathered).await?;
        }
    }
    Ok(())
}
