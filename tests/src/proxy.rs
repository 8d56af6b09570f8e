//! A TCP proxy that can cut, refuse, stall, hold back, half-close, slow down and spoil what goes through it.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

/// How often a stalled connection looks whether it may go on.
const STALL_POLL: Duration = Duration::from_millis(10);

/// Bytes taken at a time.
const CHUNK: usize = 16 * 1024;

/// Bytes taken at a time by a slow proxy: many small pieces, as a bad line has them.
const SLOW_CHUNK: usize = 512;

/// One of the two ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Who connected to the proxy.
    Client,
    /// Whom the proxy connected to.
    Server,
}

#[derive(Default)]
struct State {
    refusing: AtomicBool,
    stalled: AtomicBool,
    /// Nothing gets to the clients, and to the servers, for a time.
    unheard: [AtomicBool; 2],
    closed: AtomicBool,
    /// Bytes per second in each direction of each connection; 0: as fast as it goes.
    rate: AtomicU64,
    /// Frames of the change stream get wrong bits.
    spoiling: AtomicBool,
    connections: Mutex<Vec<Arc<Connection>>>,
}

struct Connection {
    client: TcpStream,
    server: TcpStream,
    /// Nothing more goes to the client, and to the server: what comes for them is dropped.
    ended: [AtomicBool; 2],
}

impl Connection {
    fn to(&self, end: End) -> (&TcpStream, &AtomicBool) {
        match end {
            End::Client => (&self.client, &self.ended[0]),
            End::Server => (&self.server, &self.ended[1]),
        }
    }

    fn cut(&self) {
        let _ = self.client.shutdown(Shutdown::Both);
        let _ = self.server.shutdown(Shutdown::Both);
    }
}

impl State {
    fn connections(&self) -> MutexGuard<'_, Vec<Arc<Connection>>> {
        self.connections.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// A proxy in front of a port of this machine.
pub struct Proxy {
    port: u16,
    state: Arc<State>,
}

impl Proxy {
    /// Starts to forward to 127.0.0.1:`target`.
    pub fn start(target: u16) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("listen");
        let port = listener.local_addr().expect("an address").port();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if shared.closed.load(Ordering::SeqCst) {
                    return;
                }
                if !shared.refusing.load(Ordering::SeqCst) {
                    // A client whose server is not there sees its connection closed.
                    let _ = forward(&shared, client, target);
                }
            }
        });
        Proxy { port, state }
    }

    /// The port to connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Closes every connection; new ones are accepted.
    pub fn cut(&self) {
        for connection in self.state.connections().drain(..) {
            connection.cut();
        }
    }

    /// Tells one end of every connection that the other has no more to say, which is not true: what it says is
    /// dropped. The other direction goes on until somebody closes it. New connections are whole.
    pub fn half_close(&self, end: End) {
        for connection in self.state.connections().iter() {
            let (stream, ended) = connection.to(end);
            ended.store(true, Ordering::SeqCst);
            let _ = stream.shutdown(Shutdown::Write);
        }
    }

    /// Whether new connections are closed at once.
    pub fn refuse(&self, refusing: bool) {
        self.state.refusing.store(refusing, Ordering::SeqCst);
    }

    /// Whether bytes are held back while connections stay open.
    pub fn stall(&self, stalled: bool) {
        self.state.stalled.store(stalled, Ordering::SeqCst);
    }

    /// Whether bytes for one end of the connections are held back, while those for the other pass.
    pub fn hold_back(&self, end: End, held: bool) {
        self.state.unheard[end as usize].store(held, Ordering::SeqCst);
    }

    /// Lets so many bytes per second pass in each direction of a connection; `None`: all.
    pub fn slow(&self, rate: Option<u64>) {
        self.state.rate.store(rate.unwrap_or(0), Ordering::SeqCst);
    }

    /// Whether some of the frames that a walsender sends get a wrong bit. What the protocol has around them, which
    /// has no checksum, stays as it is. Only before a PostgreSQL server.
    pub fn spoil(&self, spoiling: bool) {
        self.state.spoiling.store(spoiling, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.closed.store(true, Ordering::SeqCst);
        self.stall(false);
        self.hold_back(End::Client, false);
        self.hold_back(End::Server, false);
        self.slow(None);
        self.cut();
        // Wakes the listener, which then sees that it is over.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn forward(state: &Arc<State>, client: TcpStream, target: u16) -> io::Result<()> {
    let server = TcpStream::connect(("127.0.0.1", target))?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let connection = Arc::new(Connection {
        client: client.try_clone()?,
        server: server.try_clone()?,
        ended: Default::default(),
    });
    state.connections().push(Arc::clone(&connection));
    pump(state, &connection, client.try_clone()?, server.try_clone()?, End::Server);
    pump(state, &connection, server, client, End::Client);
    Ok(())
}

fn pump(
    state: &Arc<State>,
    connection: &Arc<Connection>,
    mut from: TcpStream,
    mut to: TcpStream,
    end: End,
) {
    let (state, connection) = (Arc::clone(state), Arc::clone(connection));
    thread::spawn(move || {
        let mut chunk = [0; CHUNK];
        let mut spoiler = Spoiler::default();
        loop {
            let slow = state.rate.load(Ordering::SeqCst) != 0;
            let room = if slow { SLOW_CHUNK } else { CHUNK };
            let Ok(count @ 1..) = from.read(&mut chunk[..room]) else { break };
            while state.stalled.load(Ordering::SeqCst)
                || state.unheard[end as usize].load(Ordering::SeqCst)
            {
                thread::sleep(STALL_POLL);
            }
            // 0: no limit
            if let Some(micros) =
                (count as u64 * 1_000_000).checked_div(state.rate.load(Ordering::SeqCst))
            {
                thread::sleep(Duration::from_micros(micros));
            }
            if end == End::Client {
                spoiler.pass(&mut chunk[..count], state.spoiling.load(Ordering::SeqCst));
            }
            let ended = connection.to(end).1;
            let written = to.write_all(&chunk[..count]);
            if written.is_err() && !ended.load(Ordering::SeqCst) {
                break;
            }
        }
        connection.cut();
        state.connections().retain(|other| !Arc::ptr_eq(other, &connection));
    });
}

/// One frame in so many is spoiled.
const SPOILED: u32 = 20;

/// Bytes of a CopyData message before the frame: `w`, two LSNs and a time.
const FRAME_AT: usize = 25;

/// Follows the messages of a PostgreSQL server, from its first byte on.
#[derive(Default)]
struct Spoiler {
    begun: bool,
    /// Tag and length.
    header: Vec<u8>,
    /// Of the body, and how much of it has passed.
    length: usize,
    passed: usize,
    is_frame: bool,
    /// The byte of the body that gets a wrong bit.
    at: Option<usize>,
}

impl Spoiler {
    fn pass(&mut self, bytes: &mut [u8], spoiling: bool) {
        for byte in bytes {
            // the answer to who asks for TLS is one byte: no
            let no_tls = !self.begun && *byte == b'N';
            self.begun = true;
            if no_tls {
                continue;
            }
            if self.header.len() < 5 {
                self.header.push(*byte);
                if let [_, length @ ..] = &self.header[..]
                    && let Ok(length) = <[u8; 4]>::try_from(length)
                {
                    self.begin((u32::from_be_bytes(length) as usize).saturating_sub(4));
                }
            } else {
                self.is_frame = if self.passed == 0 { *byte == b'w' } else { self.is_frame };
                if spoiling && self.is_frame && self.at == Some(self.passed) {
                    *byte ^= 1 << fastrand::u32(0..8);
                }
                self.passed += 1;
            }
            if self.header.len() == 5 && self.passed == self.length {
                self.header.clear();
            }
        }
    }

    fn begin(&mut self, length: usize) {
        (self.length, self.passed) = (length, 0);
        let chosen = self.header[0] == b'd' && length > FRAME_AT && fastrand::u32(0..SPOILED) == 0;
        self.at = chosen.then(|| fastrand::usize(FRAME_AT..length));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let length = (body.len() as u32 + 4).to_be_bytes();
        [&[tag], &length[..], body].concat()
    }

    #[test]
    fn only_frames_are_spoiled() {
        let mut sent = b"N".to_vec();
        for i in 0..500_u32 {
            sent.extend(message(b'R', &i.to_be_bytes()));
            sent.extend(message(b'Z', b""));
            sent.extend(message(b'd', &[b"k".as_slice(), &[7; 40]].concat()));
            sent.extend(message(b'd', &[b"w".as_slice(), &[7; 24], &[0; 9]].concat()));
        }
        for spoiling in [false, true] {
            let (mut spoiler, mut got) = (Spoiler::default(), sent.clone());
            // in pieces of any size
            let mut rest = &mut got[..];
            while !rest.is_empty() {
                let (piece, behind) = rest.split_at_mut(fastrand::usize(1..=rest.len().min(50)));
                spoiler.pass(piece, spoiling);
                rest = behind;
            }
            let wrong: Vec<_> = got.iter().zip(&sent).filter(|(got, sent)| got != sent).collect();
            assert_eq!(!wrong.is_empty(), spoiling);
            assert!(wrong.iter().all(|(got, sent)| **sent == 0 && got.count_ones() == 1));
            assert!(wrong.len() < 100, "{} of 500", wrong.len());
        }
    }
}
