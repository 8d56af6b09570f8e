//! TLS: whose certificate is believed, and what is said of one that is not.
//!
//! The server is a real one, of the engine in the chdb wheel, which refuses to listen for HTTPS. So TLS ends in front of
//! it, in this test.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rsrepl_sidecar::config::{Config, Syntax, TargetOptions};
use rsrepl_sidecar::error::{Decision, Kind};
use rsrepl_sidecar::target::Target;
use rsrepl_sidecar::target::clickhouse::{ClickHouseOptions, ClickHouseTarget, check};
use rsrepl_tests::clickhouse::USER;
use rsrepl_tests::scratch::Scratch;
use rsrepl_tests::{SECRET, certificates};
use rsrepl_wire::ReplicaIdentity;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::feed::*;
use crate::rig::{DATABASE, GROUPS, Rig, apply, source};

/// Ends TLS for the server on port `to`.
struct Front {
    port: u16,
    /// Sessions that somebody has begun to talk in.
    sessions: Arc<AtomicUsize>,
}

impl Front {
    async fn start(certificates: &Path, to: u16) -> Front {
        let chain = vec![CertificateDer::from_pem_file(certificates.join("server.pem")).unwrap()];
        let key = PrivateKeyDer::from_pem_file(certificates.join("server.key")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let sessions = Arc::new(AtomicUsize::new(0));
        let begun = sessions.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, begun) = (acceptor.clone(), begun.clone());
                tokio::spawn(async move {
                    // whoever does not believe the certificate ends the handshake
                    let Ok(mut near) = acceptor.accept(stream).await else { return };
                    begun.fetch_add(1, Ordering::SeqCst);
                    let mut far = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                    let _ = copy_bidirectional(&mut near, &mut far).await;
                });
            }
        });
        Front { port, sessions }
    }
}

/// What a configuration with this connection string comes to.
fn options(connection_string: &str) -> ClickHouseOptions {
    let text = format!(
        "[source]\nconnection_string = \"host=h user=u dbname=d\"\nslot_name = \"s\"\n\
         [[targets.clickhouse]]\nname = \"ch\"\nconnection_string = \"{connection_string}\"\n"
    );
    let config = Config::parse(&text, Syntax::Toml, &std::iter::empty().collect()).unwrap();
    match &config.targets[0].options {
        TargetOptions::ClickHouse(options) => {
            ClickHouseOptions::from_config("ch", options).unwrap()
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn only_the_right_certificate_is_believed() {
    let rig = Rig::start();
    let scratch = Scratch::new("chtls");
    certificates::make(scratch.path());
    std::fs::write(scratch.join("none.pem"), "this is no certificate").unwrap();
    let front = Front::start(scratch.path(), rig.server.http_port()).await;
    let port = front.port;
    let file = |name: &str| format!("?sslrootcert={}", scratch.join(name).display());
    let at = |scheme: &str, host: &str, port: u16, rest: &str| {
        options(&format!("{scheme}://{USER}:{SECRET}@{host}:{port}/{DATABASE}{rest}"))
    };
    let t = table(1, "t", ReplicaIdentity::Default, vec![key(int_column("id"))]);

    // by its authority, and by itself
    for (n, name) in [(1, "ca.pem"), (2, "server.pem")] {
        let options = at("https", "localhost", port, &file(name));
        assert_eq!(check(&options, &[]).await.len(), 0, "{name}");
        let mut target = ClickHouseTarget::new(options, GROUPS).unwrap();
        target.open(&source()).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        let end = 20 * n;
        apply(&mut target, vec![insert(&t, end - 1, &[int(n as i32)])], end).await.unwrap();
    }
    assert_eq!(rig.rows("id", "t"), ["1", "2"]);

    let talked = front.sessions.load(Ordering::SeqCst);
    assert!(talked > 0, "they went another way");
    let plain = rig.server.http_port();
    for (host, port, rest, kind, says) in [
        ("localhost", port, file("other.pem"), Kind::Setup, "add ?sslrootcert=FILE"),
        ("localhost", port, String::new(), Kind::Setup, "add ?sslrootcert=FILE"),
        ("127.0.0.1", port, file("ca.pem"), Kind::Setup, "use a name of its subjectAltName"),
        ("localhost", port, file("missing.pem"), Kind::Setup, "missing.pem"),
        ("localhost", port, file("none.pem"), Kind::Setup, "none.pem"),
        ("localhost", plain, file("ca.pem"), Kind::Setup, "write http://"),
    ] {
        let options = at("https", host, port, &rest);
        let found = check(&options, &[]).await;
        assert!(found.iter().any(|f| f.to_string().contains(says)), "{host} {rest}: {found:?}");
        let mut target = ClickHouseTarget::new(options, GROUPS).unwrap();
        let error = target.open(&source()).await.expect_err(&format!("{host} {rest}"));
        assert_eq!(
            (error.kind(), error.decision()),
            (kind, Decision::Retry),
            "{host} {rest}: {error}"
        );
        assert!(error.to_string().contains(says), "{host} {rest}: {error}");
        assert!(!format!("{error} {error:?}").contains(SECRET), "{error}");
    }
    // without TLS to a port that speaks nothing else
    let mut target = ClickHouseTarget::new(at("http", "localhost", port, ""), GROUPS).unwrap();
    let error = target.open(&source()).await.expect_err("no TLS");
    assert_eq!(error.decision(), Decision::Retry, "{error}");
    assert_eq!(
        front.sessions.load(Ordering::SeqCst),
        talked,
        "nothing was said to anybody who is not believed"
    );
}
