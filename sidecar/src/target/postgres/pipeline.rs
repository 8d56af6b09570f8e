//! Statements sent one after the other without waiting for each answer.

use std::collections::VecDeque;
use std::error::Error as StdError;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

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
}

impl<'a> Pipeline<'a> {
    pub fn new(client: &'a Client) -> Self {
        Pipeline { client, pending: VecDeque::new() }
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
        if self.pending.len() >= DEPTH { self.next().await } else { None }
    }

    /// Statements without an answer so far.
    pub fn outstanding(&self) -> usize {
        self.pending.len()
    }

    /// The oldest outstanding answer.
    pub async fn next(&mut self) -> Option<Answered> {
        let (number, answer) = self.pending.pop_front()?;
        Some((number, answer.await))
    }
}
