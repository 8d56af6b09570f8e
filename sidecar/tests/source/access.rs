//! Passwords and certificates, by both clients: what the server asks for, what it may be.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rsrepl_sidecar::error::{Error, Kind};
use rsrepl_sidecar::source::ReplicationClient;
use rsrepl_sidecar::tls;
use rsrepl_tests::postgres::Postgres;
use rsrepl_tests::process::server_user;
use rsrepl_tests::scratch::{Scratch, free_port};
use rsrepl_tests::{SECRET, certificates, wait};

use crate::{LIMIT, block_on, connect_to, execute, value};

const HBA: &str = "
hostssl all             s_scram         samenet       scram-sha-256
host    all             md5             samenet       md5
host    all             clear           samenet       password
hostssl all             only_cert       samenet       cert
host    all             nobody          samenet       reject
hostnossl all           s_scram         samenet       reject
host    all             all             samenet       scram-sha-256
";

/// Gives the server its key and certificate, and who may come in how.
fn configure(server: &Postgres, certificates: &Path) {
    block_on(async {
        let connect = connect_to(server);
        let data = PathBuf::from(value(&connect, "current_setting('data_directory')").await);
        for file in ["server.key", "server.pem", "ca.pem"] {
            fs::copy(certificates.join(file), data.join(file)).unwrap();
            fs::set_permissions(data.join(file), fs::Permissions::from_mode(0o600)).unwrap();
            if let Some(user) = server_user() {
                assert!(
                    Command::new("chown")
                        .arg(user)
                        .arg(data.join(file))
                        .status()
                        .unwrap()
                        .success()
                );
            }
        }
        let secret = format!("LOGIN PASSWORD '{SECRET}'");
        let roles = format!(
            "CREATE ROLE s_scram REPLICATION {secret};
             CREATE ROLE clear REPLICATION {secret};
             CREATE ROLE nobody REPLICATION {secret};
             CREATE ROLE plain {secret};
             CREATE ROLE only_cert REPLICATION LOGIN;
             SET password_encryption = md5;
             CREATE ROLE md5 REPLICATION {secret}"
        );
        execute(&connect, &roles).await;
        for sql in [
            "ALTER SYSTEM SET ssl = on",
            "ALTER SYSTEM SET ssl_cert_file = 'server.pem'",
            "ALTER SYSTEM SET ssl_key_file = 'server.key'",
            "ALTER SYSTEM SET ssl_ca_file = 'ca.pem'",
        ] {
            execute(&connect, sql).await;
        }
        fs::write(data.join("pg_hba.conf"), HBA).unwrap();
        execute(&connect, "SELECT pg_reload_conf()").await;
    });
    // the postmaster reads it in its own time
    wait::until(LIMIT, "TLS is on", || {
        block_on(connects(&conninfo(server, "localhost", "s_scram", "sslmode=require"))).is_ok()
    });
}

fn conninfo(server: &Postgres, host: &str, user: &str, rest: &str) -> String {
    format!(
        "host={host} hostaddr=127.0.0.1 port={} user={user} dbname=postgres password={SECRET} {rest}",
        server.port()
    )
}

/// What both clients say, which must be of one kind; no message shows the password.
async fn connects(conninfo: &str) -> Result<(), Error> {
    let connect = tls::parse(conninfo)?;
    let ours = match ReplicationClient::connect(&connect).await {
        Ok(client) => {
            client.close().await;
            Ok(())
        }
        Err(error) => Err(error),
    };
    let theirs = connect.connect().await.map(drop);
    for error in [ours.as_ref().err(), theirs.as_ref().err()].into_iter().flatten() {
        assert!(!format!("{error} {error:?}").contains(SECRET), "{error:?}");
    }
    match (&ours, &theirs) {
        (Err(ours), Err(theirs)) => assert_eq!(ours.kind(), theirs.kind(), "{ours} / {theirs}"),
        // a role without REPLICATION may still have an ordinary session
        (Err(_), Ok(())) if conninfo.contains("user=plain") => {}
        _ => assert!(ours.is_ok() && theirs.is_ok(), "{ours:?} / {theirs:?}"),
    }
    ours
}

#[test]
fn passwords_and_certificates() {
    let scratch = Scratch::new("source-access");
    certificates::make(scratch.path());
    let server = Postgres::start(&scratch, "source", "");
    if server.value("postgres", "current_setting('ssl_library')").as_deref() == Some("") {
        return println!("not tested: this server is built without TLS");
    }
    configure(&server, scratch.path());
    let file = |name: &str| scratch.join(name).display().to_string();
    let (ca, other) = (file("ca.pem"), file("other.pem"));
    let client = format!("sslcert={} sslkey={}", file("client.pem"), file("client.key"));
    let own = file("server.pem");

    let allowed = [
        ("localhost", "s_scram", "sslmode=require".to_owned()),
        ("localhost", "s_scram", "sslmode=prefer".to_owned()),
        ("localhost", "s_scram", "sslmode=require channel_binding=require".to_owned()),
        ("localhost", "s_scram", "sslmode=require channel_binding=disable".to_owned()),
        ("localhost", "s_scram", format!("sslmode=verify-full sslrootcert={ca}")),
        ("localhost", "s_scram", format!("sslmode=verify-full sslrootcert={own}")),
        ("elsewhere.test", "s_scram", format!("sslmode=verify-ca sslrootcert={ca}")),
        ("localhost", "postgres", "sslmode=disable".to_owned()),
        ("localhost", "md5", "sslmode=disable".to_owned()),
        ("localhost", "md5", "sslmode=require".to_owned()),
        ("localhost", "clear", "sslmode=require".to_owned()),
        ("localhost", "only_cert", format!("sslmode=require {client}")),
    ];
    for (host, user, rest) in &allowed {
        block_on(connects(&conninfo(&server, host, user, rest)))
            .unwrap_or_else(|error| panic!("{user} {rest}: {error}"));
    }

    let refused = [
        ("localhost", "s_scram", format!("sslmode=verify-full sslrootcert={other}"), "sslrootcert"),
        ("localhost", "s_scram", format!("sslmode=verify-ca sslrootcert={other}"), "sslrootcert"),
        ("localhost", "s_scram", format!("sslmode=require sslrootcert={other}"), "sslrootcert"),
        (
            "elsewhere.test",
            "s_scram",
            format!("sslmode=verify-full sslrootcert={ca}"),
            "another name",
        ),
        ("localhost", "s_scram", "sslmode=require sslrootcert=/nowhere".to_owned(), "/nowhere"),
        ("localhost", "s_scram", "sslmode=disable".to_owned(), "pg_hba.conf"),
        ("localhost", "md5", "sslmode=require channel_binding=require".to_owned(), ""),
        ("localhost", "nobody", String::new(), "pg_hba.conf"),
        ("localhost", "only_cert", "sslmode=require".to_owned(), ""),
        ("localhost", "s_scram", "password=wrong".to_owned(), "check user and password"),
        ("localhost", "plain", String::new(), "REPLICATION"),
        ("localhost", "postgres", "dbname=nowhere".to_owned(), "database name"),
    ];
    for (host, user, rest, says) in &refused {
        let error = block_on(connects(&conninfo(&server, host, user, rest)))
            .expect_err(&format!("{user} {rest}"));
        assert_eq!(error.kind(), Kind::Setup, "{user} {rest}: {error}");
        assert!(error.to_string().contains(says), "{user} {rest}: {error}");
    }
}

#[test]
fn the_next_host_is_tried_and_a_mute_one_is_left() {
    let scratch = Scratch::new("source-hosts");
    let server = Postgres::start(&scratch, "source", "");
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mute_port = mute.local_addr().unwrap().port();
    let closed = free_port();
    let hosts =
        format!("host=127.0.0.1,127.0.0.1,127.0.0.1 port={closed},{},{}", mute_port, server.port());
    let rest = format!("user=postgres password={SECRET} dbname=postgres connect_timeout=1");
    block_on(async {
        let connect = tls::parse(&format!("{hosts} {rest}")).unwrap();
        ReplicationClient::connect(&connect).await.unwrap().close().await;
        connect.connect().await.unwrap();

        let connect = tls::parse(&format!("host=127.0.0.1 port={closed} {rest}")).unwrap();
        let error = ReplicationClient::connect(&connect).await.err().unwrap();
        assert_eq!(error.kind(), Kind::Connection);
        assert!(error.to_string().contains(&format!("127.0.0.1:{closed}")), "{error}");
        assert_eq!(connect.connect().await.err().unwrap().kind(), Kind::Connection);

        let connect = tls::parse(&format!("host=127.0.0.1 port={mute_port} {rest}")).unwrap();
        for error in [
            ReplicationClient::connect(&connect).await.err().unwrap(),
            connect.connect().await.err().unwrap(),
        ] {
            assert_eq!(error.kind(), Kind::Connection);
            assert!(error.to_string().contains("let no session begin"), "{error}");
        }
    });
}
