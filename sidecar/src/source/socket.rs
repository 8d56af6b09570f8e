//! A byte stream to one host: TCP or Unix socket, then TLS as the connection string asks for.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use postgres_protocol::message::frontend;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::timeout;
use tokio_postgres::config::{Host, SslNegotiation};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::binding;
use super::framing::{ReadHalf, WriteHalf};
use crate::error::{Error, Kind, Result};
use crate::tls::{Endpoint, PgConnect, SslMode, tls_failed, tls_not_offered};

/// An open byte stream, nothing sent yet but what TLS needs.
pub(super) struct Socket {
    pub(super) read: ReadHalf,
    pub(super) write: WriteHalf,
    pub(super) tls: bool,
    /// What SCRAM can bind to.
    pub(super) binding: Option<Vec<u8>>,
}

pub(super) async fn open(connect: &PgConnect, endpoint: &Endpoint) -> Result<Socket> {
    match &endpoint.host {
        Host::Tcp(name) => {
            let stream = tcp(connect, endpoint, name)
                .await
                .map_err(|error| unreachable_host(endpoint, error))?;
            encrypted(connect, endpoint, name, stream).await
        }
        Host::Unix(directory) => {
            let stream = unix(directory, endpoint.port)
                .await
                .map_err(|error| unreachable_host(endpoint, error))?;
            let (read, write) = stream.into_split();
            let (read, write) = (Box::new(read), Box::new(write));
            Ok(Socket { read, write, tls: false, binding: None })
        }
    }
}

fn unreachable_host(endpoint: &Endpoint, error: io::Error) -> Error {
    Error::new(Kind::Connection, format!("cannot connect to the source at {endpoint}"))
        .because(error)
}

async fn tcp(connect: &PgConnect, endpoint: &Endpoint, name: &str) -> io::Result<TcpStream> {
    let stream = first_address(connect, endpoint, name).await?;
    stream.set_nodelay(true)?;
    let config = connect.config();
    let socket = SockRef::from(&stream);
    if config.get_keepalives() {
        let mut keepalive = TcpKeepalive::new().with_time(config.get_keepalives_idle());
        if let Some(interval) = config.get_keepalives_interval() {
            keepalive = keepalive.with_interval(interval);
        }
        if let Some(retries) = config.get_keepalives_retries() {
            keepalive = keepalive.with_retries(retries);
        }
        socket.set_tcp_keepalive(&keepalive)?;
    }
    #[cfg(target_os = "linux")]
    if let Some(limit) = config.get_tcp_user_timeout() {
        socket.set_tcp_user_timeout(Some(*limit))?;
    }
    Ok(stream)
}

/// Goes through the addresses of a host until one accepts.
async fn first_address(
    connect: &PgConnect,
    endpoint: &Endpoint,
    name: &str,
) -> io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> = match endpoint.address {
        Some(address) => vec![(address, endpoint.port).into()],
        None => lookup_host((name, endpoint.port)).await?.collect(),
    };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        last = match timeout(connect.connect_timeout(), TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => error,
            Err(_) => io::Error::new(io::ErrorKind::TimedOut, format!("{address} did not answer")),
        };
    }
    Err(last)
}

async fn unix(directory: &Path, port: u16) -> io::Result<UnixStream> {
    UnixStream::connect(directory.join(format!(".s.PGSQL.{port}"))).await
}

async fn encrypted(
    connect: &PgConnect,
    endpoint: &Endpoint,
    name: &str,
    mut stream: TcpStream,
) -> Result<Socket> {
    let mode = connect.tls().mode;
    let direct = connect.config().get_ssl_negotiation() == SslNegotiation::Direct;
    let wanted = mode != SslMode::Disable
        && (direct
            || offered(&mut stream).await.map_err(|error| unreachable_host(endpoint, error))?);
    if !wanted {
        if !matches!(mode, SslMode::Disable | SslMode::Prefer) {
            return Err(tls_not_offered(&endpoint.to_string()));
        }
        let (read, write) = stream.into_split();
        let (read, write) = (Box::new(read), Box::new(write));
        return Ok(Socket { read, write, tls: false, binding: None });
    }
    let failed = |error: io::Error| tls_failed(&endpoint.to_string(), error);
    let connector = TlsConnector::from(Arc::new(connect.rustls_config().await?));
    let name = ServerName::try_from(name.to_owned())
        .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
    let stream = connector.connect(name, stream).await.map_err(failed)?;
    let binding = server_certificate(&stream).and_then(binding::tls_server_end_point);
    let (read, write) = tokio::io::split(stream);
    Ok(Socket { read: Box::new(read), write: Box::new(write), tls: true, binding })
}

/// Asks for TLS; the answer is one byte.
async fn offered(stream: &mut TcpStream) -> io::Result<bool> {
    let mut request = bytes::BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await?;
    // an error message ('E') of a server that knows no TLS reads as "no" too
    Ok(stream.read_u8().await? == b'S')
}

fn server_certificate(stream: &TlsStream<TcpStream>) -> Option<&[u8]> {
    stream.get_ref().1.peer_certificates()?.first().map(AsRef::as_ref)
}
