//! A TCP proxy that can cut, refuse and stall what goes through it.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// How often a stalled connection looks whether it may go on.
const STALL_POLL: Duration = Duration::from_millis(10);

/// Bytes taken at a time.
const CHUNK: usize = 16 * 1024;

#[derive(Default)]
struct State {
    refusing: AtomicBool,
    stalled: AtomicBool,
    closed: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
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
        let mut streams = self.state.streams.lock().unwrap_or_else(|e| e.into_inner());
        for stream in streams.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
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
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.closed.store(true, Ordering::SeqCst);
        self.stall(false);
        self.cut();
        // Wakes the listener, which then sees that it is over.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn forward(state: &Arc<State>, client: TcpStream, target: u16) -> io::Result<()> {
    let server = TcpStream::connect(("127.0.0.1", target))?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let mut streams = state.streams.lock().unwrap_or_else(|e| e.into_inner());
    streams.push(client.try_clone()?);
    streams.push(server.try_clone()?);
    drop(streams);
    pump(state, client.try_clone()?, server.try_clone()?);
    pump(state, server, client);
    Ok(())
}

fn pump(state: &Arc<State>, mut from: TcpStream, mut to: TcpStream) {
    let state = Arc::clone(state);
    thread::spawn(move || {
        let mut chunk = [0; CHUNK];
        while let Ok(count @ 1..) = from.read(&mut chunk) {
            while state.stalled.load(Ordering::SeqCst) {
                thread::sleep(STALL_POLL);
            }
            if to.write_all(&chunk[..count]).is_err() {
                break;
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    });
}
