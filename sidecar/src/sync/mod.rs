//! One table at a time: tables are copied to a target while its stream goes on for all others.
//!
//! ```text
//! rsrepl resync ─► record on the target ─► hold ─► slot with a snapshot ─► copy ─► a stream of its own
//!                                                                                        │ near
//!                       records, slot and positions go ◄─ the main stream has passed h ◄─┴─ ends at h
//! ```
//!
//! A *sync* is a second pipeline in the same process, for one target and some tables, with a slot of its own
//! (`<slot>_sync_<n>`) and with positions and copy records on the target under that slot's name. What the initial
//! copy can survive, it can survive, by the same code ([`crate::copy`]). The main stream goes on meanwhile, without the
//! tables; [`share`] says which change is whose, and why none is lost or applied twice.
//!
//! Each target keeps [`Table`] records of its own: `rsrepl.syncs`, or `_rsrepl_syncs` in ClickHouse. They are the request, too:
//! the running sidecar looks for new ones every second. After a crash of anything, what is left to be done follows
//! from the [`Stage`] that is recorded:
//!
//! | stage | the main stream | what is done next |
//! |---|---|---|
//! | to be decided | has the table | nothing before somebody asks for it: it was complete, or has rows of others |
//! | given up | leaves it out | its slot and records go, if they are still there; then nothing before somebody asks for it: it is half copied |
//! | requested | has the table | a slot's name is chosen and recorded |
//! | requested again | leaves it out | the same, after it was given up |
//! | copying | leaves it out | it is emptied, copied, and followed until the sync is near |
//! | handing over at h | leaves it out up to h, then waits | the sync goes on up to h; what it knows of the table's shape becomes the main stream's |
//! | handed over at h | leaves it out up to h | the slot is dropped; once the main stream is behind h, all records of the sync |
//!
//! | module | subject |
//! |---|---|
//! | `share` | which changes are whose (pure) |
//! | `complete` | which tables are complete, so that one that is published later is copied |
//! | `records` | what is recorded on a target |
//! | `manager` | a target's task that does what is recorded |
//! | `cancel` | a sync is given up |
//! | `ending` | the last part of that: the main stream has the tables again |
//! | `lists` | looks at the source for tables to copy, and for slots that are nobody's |
//! | `source` | slots of syncs on the source |

mod cancel;
mod complete;
mod ending;
mod lists;
mod manager;
mod records;
pub mod share;
mod source;

pub use complete::Complete;
pub(crate) use lists::begin_list;
pub(crate) use manager::{KnownSlots, Manager, Slots};
pub use records::{CANCEL, Stage, SyncTarget, Table};
pub use share::Share;
