//! Schema changes of a transaction that runs: what is rolled back goes with the rows that came with it.

use bytes::Bytes;
use rsrepl_sidecar::source::{self, Event, ReplicationClient, ReplicationStream};
use rsrepl_tests::postgres::Postgres;
use rsrepl_tests::scratch::Scratch;
use rsrepl_wire::{Frame, Message, STREAM_FRAME_OVERHEAD, StreamCommit, StreamEnd};
use tokio::time::timeout;

use crate::{LIMIT, SLOT, block_on, connect_to, execute};

/// Frames of the one transaction in progress, laid down as a receiver does.
struct Received {
    stream: ReplicationStream,
    frames: Vec<Bytes>,
    aborts: usize,
}

impl Received {
    fn size(&self) -> u64 {
        self.frames.iter().map(|frame| frame.len() as u64 + STREAM_FRAME_OVERHEAD).sum()
    }

    /// Contents of its messages of schema changes.
    fn told(&self) -> Vec<String> {
        let frames = self.frames.iter().map(|bytes| Frame::parse(bytes.clone()).unwrap());
        let messages =
            frames.flat_map(|frame| frame.messages().map(Result::unwrap).collect::<Vec<_>>());
        messages
            .filter_map(|message| match message {
                Message::Logical(message) => {
                    assert_eq!(message.prefix, "rsrepl.schema");
                    Some(String::from_utf8(message.content.to_vec()).unwrap())
                }
                _ => None,
            })
            .collect()
    }

    /// One more frame; the end of the transaction when it is that.
    async fn next(&mut self) -> Option<StreamCommit> {
        let event = timeout(LIMIT, self.stream.next()).await.expect("a frame");
        let Event::Frame { frame, .. } = event.expect("the stream") else { return None };
        if !frame.streams() {
            return None; // of another
        }
        match frame.stream_end().unwrap() {
            None => self.frames.push(frame.bytes().clone()),
            Some(StreamEnd::Commit(commit)) => return Some(commit),
            Some(StreamEnd::Abort(abort)) => {
                self.aborts += 1;
                while self.size() > abort.place.frame {
                    let last = self.frames.pop().unwrap();
                    if self.size() == abort.place.frame && abort.place.cuts_frame() {
                        let cut = Frame::parse(last).unwrap().until(abort.place.offset as usize);
                        self.frames.push(cut.unwrap().into());
                        break;
                    }
                }
                assert_eq!(self.size(), abort.place.size());
            }
        }
        None
    }
}

#[test]
fn what_is_rolled_back_is_taken_back() {
    let scratch = Scratch::new("source-schema");
    let server = Postgres::start(&scratch, "source", "logical_decoding_work_mem = '64kB'");
    let connect = connect_to(&server);
    block_on(async {
        execute(
            &connect,
            "CREATE EXTENSION rsrepl; CREATE TABLE t (id int); CREATE TABLE u (id int)",
        )
        .await;
        let mut client = ReplicationClient::connect(&connect).await.unwrap();
        let start = client.create_slot(SLOT, source::PLUGIN).await.unwrap();
        let options = ["streaming", "rewrites"].map(|name| (name.to_owned(), "on".to_owned()));
        let stream = client.start(SLOT, start, &options).await.unwrap();
        let mut received = Received { stream, frames: Vec::new(), aborts: 0 };

        let user = connect.connect().await.unwrap();
        let rows = "INSERT INTO t SELECT generate_series(1, 3000)";
        let run = |sql: &str| {
            let sql = sql.replace("ROWS", rows);
            let user = &user;
            let connect = &connect;
            async move {
                user.batch_execute(&sql).await.unwrap();
                // what an open transaction wrote is flushed with another's commit
                execute(connect, "INSERT INTO u VALUES (1)").await;
            }
        };
        run("BEGIN; ROWS; SAVEPOINT a; ALTER TABLE t ADD gone int; ALTER TABLE t ALTER id TYPE bigint; ROWS").await;
        while received.told().len() < 3 {
            received.next().await;
        }
        let told = received.told();
        assert!(told.iter().all(|told| told.contains("\"gone\"")), "{told:?}");
        assert!(told[1].contains("\"rewrite\":true"), "{told:?}");
        run("ROLLBACK TO a; ALTER TABLE t ADD stays int; ROWS; COMMIT").await;
        let commit = loop {
            if let Some(commit) = received.next().await {
                break commit;
            }
        };
        assert!(received.aborts > 0);
        assert_eq!(received.size(), commit.size);
        let told = received.told();
        assert!(told.len() == 1 && told[0].contains("\"stays\""), "{told:?}");
    });
}
