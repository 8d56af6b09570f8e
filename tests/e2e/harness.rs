//! What the other tests rely on: servers that start, die and come back with what they had.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rsrepl_tests::clickhouse::ClickHouse;
use rsrepl_tests::postgres::Postgres;
use rsrepl_tests::proxy::{End, Proxy};
use rsrepl_tests::scratch::Scratch;

#[test]
fn postgres_survives_kill_and_fast_stop() {
    let scratch = Scratch::new("harness-pg");
    let mut server = Postgres::start(&scratch, "server", "");
    server.execute("postgres", "CREATE TABLE t AS SELECT 1 AS a");
    server.kill();
    server.launch();
    assert_eq!(server.value("postgres", "SELECT a FROM t").as_deref(), Some("1"));
    let took = server.stop_fast();
    assert!(took < Duration::from_secs(5), "an idle server took {took:?} to stop");
    server.launch();
    assert_eq!(server.value("postgres", "SELECT a FROM t").as_deref(), Some("1"));
    assert!(server.process().peak_memory().expect("a running process") > 1 << 20);
}

#[test]
fn clickhouse_keeps_acknowledged_rows_across_kill() {
    let scratch = Scratch::new("harness-ch");
    let mut server = ClickHouse::start(&scratch);
    server.query("CREATE DATABASE d");
    server.query("CREATE TABLE d.t (a UInt64) ENGINE = MergeTree ORDER BY a");
    server.query("INSERT INTO d.t SELECT number FROM numbers(1000)");
    server.kill();
    server.launch();
    assert_eq!(server.query("SELECT count(), sum(a) FROM d.t"), "1000\t499500\n");
    assert!(server.try_query("SELECT throwIf(1)").is_err());
    server.stop();
    server.launch();
    assert_eq!(server.query("SELECT count() FROM d.t"), "1000\n");
}

#[test]
fn proxy_forwards_stalls_and_cuts() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let proxy = Proxy::start(listener.local_addr().expect("address").port());
    let mut client = TcpStream::connect(("127.0.0.1", proxy.port())).expect("connect");
    let (mut server, _) = listener.accept().expect("accept");
    let mut byte = [0];

    client.write_all(b"a").expect("write");
    server.read_exact(&mut byte).expect("read through the proxy");
    assert_eq!(&byte, b"a");

    proxy.stall(true);
    client.write_all(b"b").expect("write");
    server.set_read_timeout(Some(Duration::from_millis(200))).expect("set a timeout");
    assert!(server.read_exact(&mut byte).is_err(), "a stalled proxy forwarded");
    proxy.stall(false);
    server.set_read_timeout(None).expect("unset the timeout");
    server.read_exact(&mut byte).expect("read after the stall");
    assert_eq!(&byte, b"b");

    proxy.cut();
    assert_eq!(client.read(&mut byte).expect("the end"), 0, "a cut connection goes on");
}

#[test]
fn proxy_half_closes_and_slows_down() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let proxy = Proxy::start(listener.local_addr().expect("address").port());
    let connect = || {
        let mut client = TcpStream::connect(("127.0.0.1", proxy.port())).expect("connect");
        let (mut server, _) = listener.accept().expect("accept");
        // the proxy knows of a connection a moment after both ends do
        client.write_all(b"a").expect("write");
        server.read_exact(&mut [0]).expect("read through the proxy");
        (client, server)
    };
    let mut byte = [0];

    let (mut client, mut server) = connect();
    proxy.half_close(End::Client);
    assert_eq!(client.read(&mut byte).expect("the end"), 0, "the client is not told");
    // what the server says is lost, and the connection goes on
    server.write_all(b"lost").expect("write");
    for sent in *b"bcd" {
        client.write_all(&[sent]).expect("write");
        server.read_exact(&mut byte).expect("the other direction goes on");
        assert_eq!(byte, [sent]);
    }
    drop(client);
    assert_eq!(server.read(&mut byte).expect("the end"), 0, "the server is not told");

    let (mut client, mut server) = connect();
    proxy.half_close(End::Server);
    assert_eq!(server.read(&mut byte).expect("the end"), 0, "the server is not told");
    server.write_all(b"e").expect("write");
    client.read_exact(&mut byte).expect("the other direction goes on");

    let (mut client, mut server) = connect();
    proxy.slow(Some(20_000));
    let start = Instant::now();
    client.write_all(&[7; 10_000]).expect("write");
    let mut all = [0; 10_000];
    server.read_exact(&mut all).expect("all of it comes");
    assert_eq!(all, [7; 10_000]);
    // half a second, but for what was taken at once before the proxy was slow
    assert!(start.elapsed() > Duration::from_millis(200), "{:?}", start.elapsed());
}
