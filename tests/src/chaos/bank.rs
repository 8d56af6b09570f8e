//! A workload whose states show by themselves whether they are whole.
//!
//! Tellers move amounts between accounts. A transaction has one transfer, or some hundred of them: each changes two
//! balances, counts both accounts' versions up, and writes a line of the journal with the teller's next number. So in every
//! state that the source has ever shown, and in no other that a fault makes of it,
//!
//! - the balances sum up to zero;
//! - each teller's lines are numbered from 1 to its last, which `tellers` has, without a gap;
//! - each account's versions are numbered so, too, over the lines of all tellers, and its balance is their sum: what
//!   tellers did to one account is there in the order in which they did it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use fastrand::Rng;
use postgres::Client;

use super::{Stop, connect, is_gone};

/// Accounts.
const ACCOUNTS: i64 = 50;

/// One transaction in so many has [`MANY`] transfers.
const RARELY: u32 = 40;

/// Transfers of a large transaction.
const MANY: i64 = 300;

/// A teller's rest between two transactions, so that others have a processor.
const REST: Duration = Duration::from_millis(15);

/// Its tables, empty.
pub const SCHEMA: &str = "
CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL, version bigint NOT NULL);
CREATE TABLE tellers (id int PRIMARY KEY, last bigint NOT NULL);
CREATE TABLE journal (
    teller int, number bigint, debit int, debit_version bigint, credit int, credit_version bigint, amount bigint,
    PRIMARY KEY (teller, number));";

/// Accounts without money, and tellers; one transaction.
pub fn opening(tellers: usize) -> String {
    format!(
        "INSERT INTO accounts SELECT i, 0, 0 FROM generate_series(1, {ACCOUNTS}) i;
         INSERT INTO tellers SELECT i, 0 FROM generate_series(0, {}) i",
        tellers - 1
    )
}

/// The state that one snapshot shows: the sum of all balances, the tellers and the accounts of which something is
/// missing or double, and the last number of each teller.
const STATE: &str = "
SELECT (SELECT coalesce(sum(balance), 0)::bigint FROM accounts),
       (SELECT count(*) FROM tellers t
          LEFT JOIN (SELECT teller, count(*) AS lines, max(number) AS top FROM journal GROUP BY teller) j
            ON j.teller = t.id
         WHERE t.last <> coalesce(lines, 0) OR t.last <> coalesce(top, 0)),
       (SELECT count(*) FROM accounts a
          LEFT JOIN (SELECT account, count(*) AS changes, max(version) AS top, sum(amount) AS total
                       FROM (SELECT debit AS account, debit_version AS version, -amount AS amount FROM journal
                             UNION ALL SELECT credit, credit_version, amount FROM journal) both_sides
                      GROUP BY account) e ON e.account = a.id
         WHERE a.version <> coalesce(changes, 0) OR a.version <> coalesce(top, 0) OR a.balance <> coalesce(total, 0)),
       (SELECT coalesce(array_agg(last ORDER BY id), '{}') FROM tellers)";

/// A state of the bank.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    sum: i64,
    wrong_tellers: i64,
    wrong_accounts: i64,
    /// The last number of each teller.
    pub last: Vec<i64>,
}

impl State {
    /// Looks at it, in one snapshot.
    pub fn look(client: &mut Client) -> Result<State, postgres::Error> {
        let row = client.query_one(STATE, &[])?;
        Ok(State {
            sum: row.get(0),
            wrong_tellers: row.get(1),
            wrong_accounts: row.get(2),
            last: row.get(3),
        })
    }

    /// What no state of the source has.
    pub fn fault(&self) -> Option<String> {
        let whole = (self.sum, self.wrong_tellers, self.wrong_accounts) == (0, 0, 0);
        (!whole).then(|| {
            format!(
                "balances sum up to {}, {} tellers have gaps in the journal, {} accounts are not what the journal says",
                self.sum, self.wrong_tellers, self.wrong_accounts
            )
        })
    }
}

/// Tellers at work.
pub struct Bank {
    acknowledged: Vec<Arc<AtomicI64>>,
    tellers: Vec<JoinHandle<()>>,
}

impl Bank {
    /// Lets so many tellers work on a server until `stop`.
    pub fn open(seed: u64, tellers: usize, conninfo: &str, stop: &Stop) -> Bank {
        let acknowledged: Vec<_> = (0..tellers).map(|_| Arc::default()).collect();
        let begin = |(id, acknowledged): (usize, &Arc<AtomicI64>)| {
            let mut teller = Teller {
                id,
                rng: Rng::with_seed(seed.wrapping_mul(100).wrapping_add(id as u64)),
                conninfo: conninfo.to_owned(),
                acknowledged: Arc::clone(acknowledged),
                stop: stop.clone(),
            };
            thread::spawn(move || while teller.session().is_some() {})
        };
        let tellers = acknowledged.iter().enumerate().map(begin).collect();
        Bank { acknowledged, tellers }
    }

    /// Waits for the tellers' end; the last number of each of which a COMMIT was acknowledged.
    pub fn close(self) -> Vec<i64> {
        for teller in self.tellers {
            teller.join().expect("a teller");
        }
        self.acknowledged.iter().map(|last| last.load(Ordering::SeqCst)).collect()
    }
}

struct Teller {
    id: usize,
    rng: Rng,
    conninfo: String,
    acknowledged: Arc<AtomicI64>,
    stop: Stop,
}

impl Teller {
    /// Works until the server is gone. `None`: it is over.
    fn session(&mut self) -> Option<()> {
        let mut client = connect(&self.conninfo, &self.stop)?;
        // what was under way when the server went may be there or not
        let last =
            client.query_one(&format!("SELECT last FROM tellers WHERE id = {}", self.id), &[]);
        let mut last: i64 = match last {
            Ok(row) => row.get(0),
            Err(error) if is_gone(&error) => return Some(()),
            Err(error) => panic!("teller {}: {error:?}", self.id),
        };
        let acknowledged = self.acknowledged.load(Ordering::SeqCst);
        assert!(
            last >= acknowledged,
            "the source lost {acknowledged} of teller {}, it has {last}",
            self.id
        );
        while !self.stop.said() {
            let count = if self.rng.u32(0..RARELY) == 0 { MANY } else { 1 };
            match client.batch_execute(&self.transaction(last, count)) {
                Ok(()) => {
                    last += count;
                    self.acknowledged.store(last, Ordering::SeqCst);
                    thread::sleep(REST);
                }
                Err(error) if is_gone(&error) => return Some(()),
                // a deadlock with another teller
                Err(error) if error.code().is_some_and(|code| code.code() == "40P01") => {
                    if client.batch_execute("ROLLBACK").is_err() {
                        return Some(());
                    }
                }
                Err(error) => panic!("teller {}: {error:?}", self.id),
            }
        }
        None
    }

    /// Transfers behind number `last`; all between the same two accounts, so that large ones lock no more than small
    /// ones.
    fn transaction(&mut self, last: i64, count: i64) -> String {
        let debit = self.rng.i64(1..=ACCOUNTS);
        // another one
        let credit = (debit + self.rng.i64(1..ACCOUNTS) - 1) % ACCOUNTS + 1;
        let (id, mut sql) = (self.id, String::from("BEGIN;"));
        for number in last + 1..=last + count {
            let amount = self.rng.i64(1..1_000);
            sql.push_str(&format!(
                "UPDATE accounts SET balance = balance - {amount}, version = version + 1 WHERE id = {debit};
                 UPDATE accounts SET balance = balance + {amount}, version = version + 1 WHERE id = {credit};
                 INSERT INTO journal SELECT {id}, {number}, d.id, d.version, c.id, c.version, {amount}
                   FROM accounts d, accounts c WHERE d.id = {debit} AND c.id = {credit};"
            ));
        }
        sql.push_str(&format!(
            "UPDATE tellers SET last = {} WHERE id = {id}; COMMIT",
            last + count
        ));
        sql
    }
}
