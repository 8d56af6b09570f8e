//! Statements sent one after the other without waiting for each answer.
//!
//! Answers must be taken all the same: tokio-postgres hands each over in the pieces that it comes in, keeps two
//! of them, and with a third reads nothing more of the session. (An error is flushed before what follows it, so
//! three are not rare.) Whoever waits for a later answer therefore takes the earlier ones meanwhile.

use std::collections::VecDeque;
use std::error::Error as StdError;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, Statement};

use super::codec::{Codec, Plain};
use crate::plan::Cell;

/// Statements under way at a time.
const DEPTH: usize = 256;

/// One parameter, converted when it is written into the message.
#[derive(Debug)]
pub struct Param {
    value: Option<Bytes>,
    codec: Codec,
}

impl Param {
    /// A value that is in its binary form already.
    pub fn encoded(value: Bytes) -> Param {
        Param { value: Some(value), codec: Codec::Plain(Plain::Raw) }
    }

    /// The cell's value; an unchanged one has none, and is not to be written.
    pub fn new(codec: Codec, cell: &Cell) -> Option<Param> {
        let value = match cell {
            Cell::Data(data) => Some(data.clone()),
            Cell::Null => None,
            Cell::Unchanged => return None,
        };
        Some(Param { value, codec })
    }
}

impl ToSql for Param {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        match &self.value {
            None => Ok(IsNull::Yes),
            Some(data) => {
                self.codec.put(data, out)?;
                Ok(IsNull::No)
            }
        }
    }

    /// The statement's own casts have fixed the types.
    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

type Answer<'a> = Pin<Box<dyn Future<Output = Result<u64, tokio_postgres::Error>> + Send + 'a>>;

/// The answer to the statement of this number.
pub type Answered = (usize, Result<u64, tokio_postgres::Error>);

/// Statements under way, answered in the order they were sent.
pub struct Pipeline<'a> {
    client: &'a Client,
    pending: VecDeque<(usize, Answer<'a>)>,
    /// Older than those, and came while something else was waited for.
    answered: VecDeque<Answered>,
}

impl<'a> Pipeline<'a> {
    pub fn new(client: &'a Client) -> Self {
        Pipeline { client, pending: VecDeque::new(), answered: VecDeque::new() }
    }

    /// Sends a statement that `number` stands for, and gives the oldest answer when too many are
    /// outstanding.
    pub async fn send(
        &mut self,
        number: usize,
        statement: Statement,
        params: Vec<Param>,
    ) -> Option<Answered> {
        let client = self.client;
        self.push(number, async move { client.execute_raw(&statement, params).await }).await
    }

    /// Sends a statement without parameters, whose answer is a count of 0.
    pub async fn send_text(&mut self, statement: &'static str) -> Option<Answered> {
        let client = self.client;
        self.push(0, async move { client.batch_execute(statement).await.map(|()| 0) }).await
    }

    /// tokio-postgres writes the message into its queue at the first poll, which is made here: the
    /// order of calls is the order on the server.
    async fn push(
        &mut self,
        number: usize,
        answer: impl Future<Output = Result<u64, tokio_postgres::Error>> + Send + 'a,
    ) -> Option<Answered> {
        let mut answer: Answer<'a> = Box::pin(answer);
        let first = poll_fn(|context| Poll::Ready(answer.as_mut().poll(context))).await;
        match first {
            Poll::Pending => self.pending.push_back((number, answer)),
            Poll::Ready(answer) => {
                let ready: Answer<'a> = Box::pin(std::future::ready(answer));
                self.pending.push_back((number, ready));
            }
        }
        if self.outstanding() >= DEPTH { self.next().await } else { None }
    }

    /// Waits for something else of the same session.
    pub async fn beside<T>(&mut self, other: impl Future<Output = T>) -> T {
        let mut other = pin!(other);
        poll_fn(|context| {
            self.take_answers(context);
            other.as_mut().poll(context)
        })
        .await
    }

    fn take_answers(&mut self, context: &mut Context<'_>) {
        while let Some((number, answer)) = self.pending.front_mut()
            && let Poll::Ready(answer) = answer.as_mut().poll(context)
        {
            self.answered.push_back((*number, answer));
            self.pending.pop_front();
        }
    }

    /// Statements whose answers have not been given.
    pub fn outstanding(&self) -> usize {
        self.answered.len() + self.pending.len()
    }

    /// The oldest answer. Behind an error there are none: what follows a failed statement fails as well.
    pub async fn next(&mut self) -> Option<Answered> {
        let answered = match self.answered.pop_front() {
            Some(answered) => answered,
            None => {
                let (number, answer) = self.pending.pop_front()?;
                (number, answer.await)
            }
        };
        if answered.1.is_err() {
            // nobody may wait for anything of the session before these are taken, or dropped
            self.pending.clear();
            self.answered.clear();
        }
        Some(answered)
    }
}
