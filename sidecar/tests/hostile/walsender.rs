//! A server that speaks as much of PostgreSQL's protocol as the sidecar uses, until it attacks: one attack in each
//! connection, and none any more when all were made.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::frames::{self, STEP};
use crate::memory;

/// How long the sidecar may take to hang up on what it is to refuse.
const REFUSAL_LIMIT: Duration = Duration::from_secs(20);

/// Where the slot begins.
pub const START: u64 = STEP;

/// When an attack is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Instead of the answer to the startup packet.
    Startup,
    /// In answer to SCRAM's first message: so many rounds.
    Scram(u32),
    /// Instead of the answer to the query with this in it.
    Query(&'static str),
    /// In the stream, behind a transaction that is right.
    Stream,
}

/// What becomes of the connection then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// The sidecar has to end it.
    Refused,
    /// The server does.
    Closed,
}

#[derive(Clone)]
pub struct Attack {
    pub name: String,
    pub stage: Stage,
    /// Sent first.
    pub head: Vec<u8>,
    /// Sent again and again, until nobody listens or so many bytes have been sent.
    pub again: (Vec<u8>, usize),
    pub then: Then,
}

impl std::fmt::Debug for Attack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

/// What has been seen.
#[derive(Debug, Default)]
pub struct Journal {
    pub connections: usize,
    pub attacks: VecDeque<Attack>,
    slot: bool,
    /// End of the last transaction that was sent whole.
    pub sent: u64,
    /// The most that was confirmed.
    pub flushed: u64,
    /// What was confirmed beyond what was sent, or not refused.
    pub failures: Vec<String>,
    /// KiB of memory before all attacks, and the most after each.
    pub before: u64,
    pub peaks: Vec<(String, u64)>,
}

pub struct Walsender {
    pub port: u16,
    pub journal: Arc<Mutex<Journal>>,
}

impl Walsender {
    /// A server that has the transactions up to `last`.
    pub async fn start(attacks: Vec<Attack>, last: u32) -> Walsender {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (before, _) = memory();
        let attacks = attacks.into();
        let journal = Journal { attacks, sent: START, before, ..Journal::default() };
        let journal = Arc::new(Mutex::new(journal));
        let shared = journal.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let session = Session { journal: shared.clone(), last };
                tokio::spawn(async move {
                    // whoever attacks is hung up on
                    let _ = session.serve(stream).await;
                });
            }
        });
        Walsender { port, journal }
    }
}

struct Session {
    journal: Arc<Mutex<Journal>>,
    /// No transaction begins behind this one.
    last: u32,
}

impl Session {
    async fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let startup = stream.read_u32().await? as usize;
        skip(&mut stream, startup.saturating_sub(4)).await?;
        let attack = {
            let mut journal = self.journal.lock().unwrap();
            journal.connections += 1;
            journal.attacks.pop_front()
        };
        let stage = attack.as_ref().map(|attack| attack.stage);
        match (&attack, stage) {
            (Some(attack), Some(Stage::Startup)) => return self.make(attack, stream).await,
            (Some(attack), Some(Stage::Scram(rounds))) => {
                scram(&mut stream, rounds).await?;
                return self.make(attack, stream).await;
            }
            _ => {}
        }
        let ready = [
            message(b'R', &0u32.to_be_bytes()),
            message(b'S', b"server_version\x0015.4\0"),
            message(b'K', &[0; 8]),
            message(b'Z', b"I"),
        ];
        stream.write_all(&ready.concat()).await?;
        loop {
            let (tag, body) = read(&mut stream).await?;
            if tag != b'Q' {
                return Ok(());
            }
            let sql = String::from_utf8_lossy(&body).into_owned();
            match (&attack, stage) {
                (Some(attack), Some(Stage::Query(part))) if sql.contains(part) => {
                    return self.make(attack, stream).await;
                }
                _ => {}
            }
            if let Some((_, from)) = sql.split_once("LOGICAL ").filter(|_| sql.starts_with("START"))
            {
                let from = from.split([' ', '\0']).next().and_then(lsn).unwrap_or_default();
                return self.stream(stream, from, attack).await;
            }
            stream.write_all(&self.answer(&sql)).await?;
        }
    }

    fn answer(&self, sql: &str) -> Vec<u8> {
        let mut journal = self.journal.lock().unwrap();
        let flushed = journal.flushed.max(START);
        let (confirmed, start) = (text(flushed), text(START));
        let row: Vec<Option<&str>> = if sql.contains("pg_replication_slots") {
            if !journal.slot {
                return [message(b'C', b"SELECT 0\0"), message(b'Z', b"I")].concat();
            }
            let (lsn, is) = (Some(&*confirmed), Some("reserved"));
            vec![Some("rsrepl"), Some("d"), None, lsn, lsn, is, Some("f")]
        } else if sql.starts_with("CREATE_REPLICATION_SLOT") {
            journal.slot = true;
            vec![Some("s"), Some(&start), None, Some("rsrepl")]
        } else if sql.starts_with("IDENTIFY_SYSTEM") {
            vec![Some("7"), Some("1"), Some("FFFFFFFF/FFFFFFFF"), Some("d")]
        } else if sql.starts_with("SHOW") {
            vec![Some("")]
        } else {
            journal.failures.push(format!("an unknown query: {sql}"));
            vec![]
        };
        [rows(&row), message(b'C', b"SELECT 1\0"), message(b'Z', b"I")].concat()
    }

    /// Sends one transaction more and then the attack, or all there are.
    async fn stream(
        &self,
        mut stream: TcpStream,
        from: u64,
        attack: Option<Attack>,
    ) -> io::Result<()> {
        stream.write_all(&message(b'W', &[0, 0, 0])).await?;
        let (read, mut write) = stream.into_split();
        let done = Arc::new(Notify::new());
        let reader = tokio::spawn(listen(read, self.journal.clone(), done.clone()));
        let behind = from.max(self.journal.lock().unwrap().flushed).max(START);
        // where a lie has led to, there is nothing more
        let first = u32::try_from(behind / STEP).unwrap_or(u32::MAX).saturating_add(1);
        let last = if attack.is_some() { first } else { self.last };
        for n in first..=last.min(self.last) {
            {
                let mut journal = self.journal.lock().unwrap();
                journal.sent = journal.sent.max(u64::from(n) * STEP);
            }
            write.write_all(&xlog_data(&frames::transaction(n, frames::HONEST))).await?;
        }
        if let Some(attack) = attack {
            let _ = send(&attack, &mut write).await;
            return self.ended(&attack, write, reader).await;
        }
        done.notified().await;
        let goodbye = [message(b'c', b""), message(b'C', b"COPY 0\0"), message(b'Z', b"I")];
        let _ = write.write_all(&goodbye.concat()).await;
        let _ = reader.await;
        Ok(())
    }

    async fn make(&self, attack: &Attack, stream: TcpStream) -> io::Result<()> {
        let (read, mut write) = stream.into_split();
        let reader = tokio::spawn(listen(read, self.journal.clone(), Arc::default()));
        let _ = send(attack, &mut write).await;
        self.ended(attack, write, reader).await
    }

    async fn ended(
        &self,
        attack: &Attack,
        write: OwnedWriteHalf,
        reader: tokio::task::JoinHandle<()>,
    ) -> io::Result<()> {
        let refused = match attack.then {
            Then::Closed => {
                drop(write);
                true
            }
            Then::Refused => timeout(REFUSAL_LIMIT, reader).await.is_ok(),
        };
        let mut journal = self.journal.lock().unwrap();
        if !refused {
            journal.failures.push(format!("{} was not refused", attack.name));
        }
        journal.peaks.push((attack.name.clone(), memory().1));
        Ok(())
    }
}

async fn send(attack: &Attack, write: &mut OwnedWriteHalf) -> io::Result<()> {
    write.write_all(&attack.head).await?;
    let (part, most) = &attack.again;
    let mut sent = 0;
    while sent < *most {
        write.write_all(part).await?;
        sent += part.len();
    }
    Ok(())
}

/// Reads what the sidecar says to its end.
async fn listen(mut read: OwnedReadHalf, journal: Arc<Mutex<Journal>>, done: Arc<Notify>) {
    while let Ok(tag) = read.read_u8().await {
        let Ok(len) = read.read_u32().await else { break };
        let mut body = vec![0; len as usize - 4];
        if read.read_exact(&mut body).await.is_err() {
            break;
        }
        if tag == b'c' {
            done.notify_one();
        }
        if tag == b'd' && body[0] == b'r' {
            let position = |at: usize| u64::from_be_bytes(body[at..at + 8].try_into().unwrap());
            let (written, flushed) = (position(1), position(9));
            let mut journal = journal.lock().unwrap();
            journal.flushed = journal.flushed.max(flushed);
            if flushed.max(written) > journal.sent {
                let said = format!("{written} written, {flushed} flushed of {}", journal.sent);
                journal.failures.push(said);
            }
        }
    }
    done.notify_one();
}

async fn scram(stream: &mut TcpStream, rounds: u32) -> io::Result<()> {
    let mechanisms = [&10u32.to_be_bytes()[..], b"SCRAM-SHA-256\0\0"].concat();
    stream.write_all(&message(b'R', &mechanisms)).await?;
    let (_, body) = read(stream).await?;
    let said = String::from_utf8_lossy(&body).into_owned();
    let nonce = said.split_once("r=").map(|(_, nonce)| nonce.to_owned()).unwrap_or_default();
    let challenge = format!("r={nonce}x,s=AAAA,i={rounds}");
    let body = [&11u32.to_be_bytes()[..], challenge.as_bytes()].concat();
    stream.write_all(&message(b'R', &body)).await
}

async fn read(stream: &mut TcpStream) -> io::Result<(u8, Vec<u8>)> {
    let tag = stream.read_u8().await?;
    let len = stream.read_u32().await? as usize;
    let mut body = vec![0; len - 4];
    stream.read_exact(&mut body).await?;
    Ok((tag, body))
}

async fn skip(stream: &mut TcpStream, len: usize) -> io::Result<()> {
    stream.read_exact(&mut vec![0; len]).await.map(drop)
}

pub fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat()
}

pub fn rows(row: &[Option<&str>]) -> Vec<u8> {
    let mut body = (row.len() as u16).to_be_bytes().to_vec();
    for field in row {
        match field {
            None => body.extend((-1i32).to_be_bytes()),
            Some(text) => {
                body.extend((text.len() as u32).to_be_bytes());
                body.extend(text.as_bytes());
            }
        }
    }
    message(b'D', &body)
}

/// A frame as the walsender sends it.
pub fn xlog_data(frame: &[u8]) -> Vec<u8> {
    message(b'd', &[&b"w"[..], &[0; 24], frame].concat())
}

pub fn keepalive(wal_end: u64, time: i64, reply: bool) -> Vec<u8> {
    let numbers = [wal_end.to_be_bytes(), time.to_be_bytes()].concat();
    message(b'd', &[&b"k"[..], &numbers, &[u8::from(reply)]].concat())
}

/// As PostgreSQL writes an LSN.
fn text(lsn: u64) -> String {
    format!("{:X}/{:X}", lsn >> 32, lsn & 0xFFFF_FFFF)
}

fn lsn(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    let part = |digits| u64::from_str_radix(digits, 16).ok();
    Some(part(high)? << 32 | part(low)?)
}
