//! A source that never answers, and a spool that ends meanwhile.

use super::*;
use crate::assemble::tests::transaction;
use crate::config::Syntax;
use crate::spool::Recovered;
use crate::target::SourceIdentity;

/// More than any of these takes.
const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spool_that_has_failed_ends_the_task_though_nothing_comes() {
    let source = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = source.local_addr().unwrap().port();
    let text = format!(
        "[source]\nconnection_string = \"host=127.0.0.1 port={port} user=u dbname=d\"\nslot_name = \"s\"\n\
         [[targets.postgres]]\nname = \"t\"\nconnection_string = \"host=h user=u dbname=d\"\n"
    );
    let config = Config::parse(&text, Syntax::Toml, &std::iter::empty().collect()).unwrap();
    let dir = std::env::temp_dir().join(format!("rsrepl-receive-{:016x}", rand::random::<u64>()));
    let (ledger, ledger_receiver) = watch::channel(Ledger::of_spool(1));
    let recovered = Recovered::open(&dir).unwrap();
    let (mut spool, _readers) = Spool::on_disk(1 << 20, 1 << 30, 1, recovered, Arc::new(ledger));
    let (database, slot) = ("d".to_owned(), "s".to_owned());
    let identity = SourceIdentity { system_id: 1, timeline: 1, database, slot, ancestors: None };
    spool.belongs_to(&identity, Lsn(5)).unwrap();
    // one frame: behind a failure a second would be refused
    spool.fail_next_sync();
    spool.append(&transaction(1, 1, 1)[0]).await.unwrap();
    let receiver = Receiver {
        config: Arc::new(config),
        spool,
        streams: Streams::new(dir.join("streams"), 1 << 20),
        refusal: None,
        ledger: ledger_receiver,
        link: watch::channel(None).0,
        status: Status::new(Vec::new()),
        shutdown: CancellationToken::new(),
        drained: CancellationToken::new(),
        patience: Patience::default(),
        gone_back: None,
    };
    let ended = timeout(LIMIT, receiver.run()).await.expect("it ends");
    let failure = ended.unwrap_err();
    assert!(failure.to_string().contains("cannot be written to any more"), "{failure}");
    std::fs::remove_dir_all(&dir).unwrap();
}
