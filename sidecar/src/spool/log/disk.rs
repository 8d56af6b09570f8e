//! A reader that lags: reads entries from the files that are no longer in memory. It has one file open, and none when it
//! is back in memory.

use std::io;
use std::path::Path;

use rsrepl_wire::Frame;

use super::super::Item;
use super::super::file::wait_for_disk;
use super::record::{Kind as RecordKind, Record};
use super::recover::damaged;
use super::segment::{self, Next, Records};
use super::{Files, Segment};
use crate::error::{Error, Kind, Result};

/// See the module's documentation.
#[derive(Debug)]
pub(in super::super) struct DiskReader {
    segment: Segment,
    records: Records,
    /// In the middle of an entry of several records.
    inside: bool,
    /// What is left of that entry is not wanted, but for its end.
    skip: bool,
    /// Those of [`Files`] that it knows of.
    cuts: u64,
}

/// An entry, or a part of one.
pub(in super::super) struct Part {
    pub(in super::super) sequence: u64,
    pub(in super::super) item: Item,
    /// More of it comes.
    pub(in super::super) goes_on: bool,
}

/// What [`DiskReader::next`] has to know of the files at this moment.
pub(in super::super) struct Place {
    /// The one that is being read, as it is now, if it is still there.
    current: Option<Segment>,
    /// The one behind it.
    following: Option<Segment>,
    /// That of the wanted entry.
    wanted: Option<Segment>,
    cuts: u64,
}

impl Place {
    /// How often something had been cut off.
    pub(in super::super) fn cuts(&self) -> u64 {
        self.cuts
    }

    pub(in super::super) fn of(files: &Files, reader: Option<&DiskReader>, next: u64) -> Place {
        let wanted = files.segment_of(next);
        let first = reader.map(|reader| reader.segment.first).or(wanted.map(|w| w.first));
        let at =
            first.and_then(|first| files.segments.binary_search_by_key(&first, |s| s.first).ok());
        Place {
            current: at.and_then(|at| files.segments.get(at).copied()),
            following: at.and_then(|at| files.segments.get(at + 1).copied()),
            wanted,
            cuts: files.cuts,
        }
    }
}

impl DiskReader {
    pub(in super::super) fn is_inside(&self) -> bool {
        self.inside
    }

    /// Of the entry that it is inside of, only the end is still given out.
    pub(in super::super) fn skip(&mut self) {
        self.skip = self.inside;
    }

    /// The entry numbered `next`, or the first behind it. `None`: it goes on in the following segment, or there is none.
    pub(in super::super) fn read(
        reader: &mut Option<DiskReader>,
        dir: &Path,
        place: &Place,
        next: u64,
    ) -> Result<Option<Part>> {
        if let Some(old) = reader.as_mut() {
            let gone = place.current.is_none();
            let cut = old.cuts != place.cuts;
            old.cuts = place.cuts;
            if cut && old.inside {
                // what was cut off is behind the entry
                old.records.forget();
            } else if cut || gone {
                *reader = None;
            }
        }
        let current = match reader {
            Some(reader) => {
                let current = place.current.unwrap_or(reader.segment);
                reader.segment = current;
                reader
            }
            None => {
                let segment = place.wanted.ok_or_else(|| absent(next))?;
                let opened = wait_for_disk(|| Records::open(dir, segment.first));
                let records = opened.map_err(|error| unreadable(dir, segment, error))?;
                let (inside, skip, cuts) = (false, false, place.cuts);
                reader.insert(DiskReader { segment, records, inside, skip, cuts })
            }
        };
        if let Some(part) = current.part(dir, next)? {
            return Ok(Some(part));
        }
        // at its end; what was asked for is in the following one
        if let Some(segment) =
            place.following.filter(|following| following.first > current.segment.first)
        {
            let opened = wait_for_disk(|| Records::open(dir, segment.first));
            current.records = opened.map_err(|error| unreadable(dir, segment, error))?;
            current.segment = segment;
            return Ok(None);
        }
        *reader = None;
        Err(absent(next))
    }

    fn part(&mut self, dir: &Path, next: u64) -> Result<Option<Part>> {
        loop {
            let at = self.records.offset();
            let segment = self.segment;
            let found = self.records.next(segment.bytes);
            let record = match found.map_err(|error| unreadable(dir, segment, error))? {
                Next::Record(record) => record,
                Next::End => return Ok(None),
                Next::Bad(why) => {
                    return Err(damaged(&segment::path(dir, segment.first), at, why));
                }
            };
            let header = record.header;
            if header.kind == RecordKind::Tables || header.sequence < next {
                continue;
            }
            self.inside = header.goes_on;
            if self.skip && header.goes_on {
                continue;
            }
            self.skip = false;
            let item = item(record)
                .map_err(|error| damaged(&segment::path(dir, segment.first), at, &error.what()))?;
            return Ok(Some(Part { sequence: header.sequence, item, goes_on: header.goes_on }));
        }
    }
}

/// The tables that are described at the beginning of a segment.
pub(in super::super) fn tables(dir: &Path, segment: Segment) -> Result<Option<Frame>> {
    let read = || {
        let mut records = Records::open(dir, segment.first)?;
        records.next(segment.bytes)
    };
    match wait_for_disk(read).map_err(|error| unreadable(dir, segment, error))? {
        Next::Record(record) if record.header.kind == RecordKind::Tables => {
            Ok(Some(Frame::parse(record.content)?))
        }
        Next::Record(_) | Next::End => Ok(None),
        Next::Bad(why) => {
            Err(damaged(&segment::path(dir, segment.first), super::record::HEADER_LEN as u64, why))
        }
    }
}

fn item(record: Record) -> Result<Item> {
    Ok(match record.header.kind {
        RecordKind::Frame | RecordKind::Tables => Item::Frame(Frame::parse(record.content)?),
        RecordKind::Progress => {
            Item::Progress { lsn: super::progress(&record.content)?, urgent: false }
        }
        RecordKind::Cut => Item::Cut,
    })
}

/// May be over with the next attempt.
#[cold]
fn unreadable(dir: &Path, segment: Segment, error: io::Error) -> Error {
    let path = segment::path(dir, segment.first);
    Error::new(Kind::Disk, format!("the spool's {} cannot be read", path.display())).because(error)
}

#[cold]
fn absent(sequence: u64) -> Error {
    Error::new(Kind::Internal, format!("entry {sequence} is not in the spool"))
}
