//! The rows of a chunk on their way from the reader to its writers, and the memory that they take.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::error::{Error, Kind, Result};

/// Pieces of one chunk that wait for a writer, at most; each is of [`PIECE`] bytes and one row.
pub const PIECES: usize = 4;

/// Bytes of all pieces that wait for writers or are being written, over all workers; a single row may be larger,
/// and then is alone.
pub const WAITING: usize = 64 << 20;

/// Bytes that are gathered into one piece.
pub const PIECE: usize = 128 << 10;

/// Room for pieces, which all workers share: [`WAITING`] bytes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Room {
    free: Arc<Semaphore>,
    /// Pieces that have taken room so far.
    taken: Arc<AtomicU64>,
}

/// A piece, and the room that it takes until the last of its writers is done with it.
#[derive(Clone)]
pub struct Held {
    bytes: Bytes,
    _room: Arc<OwnedSemaphorePermit>,
}

impl Room {
    /// In units of a KiB, as a semaphore counts no further than 2^29 on some machines.
    const UNIT: usize = 1024;

    pub fn new() -> Room {
        Room { free: Arc::new(Semaphore::new(WAITING / Self::UNIT)), taken: Arc::default() }
    }

    /// Waits until there is room. Whoever waits holds nothing that others wait for.
    ///
    /// # Errors
    /// None that can happen: [`Kind::Internal`].
    pub async fn take(&self, bytes: Bytes) -> Result<Held> {
        let units = bytes.len().div_ceil(Self::UNIT).min(WAITING / Self::UNIT);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.free).acquire_many_owned(units).await;
        let room = room.map_err(|e| Error::new(Kind::Internal, "no more room").because(e))?;
        self.taken.fetch_add(1, Ordering::Relaxed);
        Ok(Held { bytes, _room: Arc::new(room) })
    }

    /// Pieces that have taken room so far: as long as it rises, something moves.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }
}

impl Default for Room {
    fn default() -> Self {
        Room::new()
    }
}

/// The rows of a chunk as COPY sends them: header, whole rows in each piece, trailer.
pub struct Rows {
    pieces: mpsc::Receiver<Piece>,
    /// The one that was given out last.
    held: Option<Held>,
}

/// The other end of [`Rows`].
#[derive(Clone)]
pub struct RowsSender(mpsc::Sender<Piece>);

enum Piece {
    Data(Held),
    End,
}

impl Rows {
    /// A channel of [`PIECES`].
    pub fn channel() -> (RowsSender, Rows) {
        let (sender, pieces) = mpsc::channel(PIECES);
        (RowsSender(sender), Rows { pieces, held: None })
    }

    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// [`Kind::Connection`]: reading was broken off, and nothing of this chunk may stay.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        self.held = None;
        match self.pieces.recv().await {
            Some(Piece::Data(held)) => Ok(Some(self.held.insert(held).bytes.clone())),
            Some(Piece::End) => Ok(None),
            None => Err(Error::new(Kind::Connection, "reading a chunk was broken off")),
        }
    }
}

impl RowsSender {
    /// Whether somebody still wants it.
    pub async fn send(&self, piece: Held) -> bool {
        self.0.send(Piece::Data(piece)).await.is_ok()
    }

    /// Everything was sent. Without it, dropping the sender breaks the chunk off.
    pub async fn end(self) -> bool {
        self.0.send(Piece::End).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn bytes(len: usize) -> Bytes {
        vec![0; len].into()
    }

    /// A piece, if there is room for it now.
    fn fits(room: &Room, len: usize) -> Option<Held> {
        room.take(bytes(len)).now_or_never().map(|held| held.unwrap())
    }

    /// As long as a writer has not asked for the next one, a piece takes its room.
    #[tokio::test]
    async fn pieces_wait_for_room() {
        let room = Room::new();
        let quarter = WAITING / 4;
        let (sender, mut rows) = Rows::channel();
        let (other, mut others) = Rows::channel();
        for _ in 0..PIECES {
            let held = fits(&room, quarter).expect("room for four");
            assert!(sender.send(held.clone()).await && other.send(held).await);
        }
        assert!(fits(&room, 1).is_none());
        rows.next().await.unwrap();
        rows.next().await.unwrap();
        assert!(fits(&room, 1).is_none(), "the other writer has it still");
        others.next().await.unwrap();
        others.next().await.unwrap();
        let last = fits(&room, quarter).expect("the first is written by both");
        assert!(fits(&room, 1).is_none());
        // writers that fail give everything back
        drop((rows, others, last));
        fits(&room, WAITING).expect("all of the room");
    }

    #[tokio::test]
    async fn a_row_larger_than_the_room_is_alone() {
        let room = Room::new();
        let small = fits(&room, 1).unwrap();
        assert!(fits(&room, 2 * WAITING).is_none());
        drop(small);
        let large = fits(&room, 2 * WAITING).unwrap();
        assert!(fits(&room, 1).is_none());
        drop(large);
        fits(&room, 1).unwrap();
    }
}
