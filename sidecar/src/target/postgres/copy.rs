//! COPY … FROM STDIN BINARY: rows converted into one buffer, sent in chunks.

use std::pin::pin;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::SinkExt;
use rsrepl_wire::Value;
use tokio_postgres::{Client, Statement};

use super::codec::{Codec, CodecError};

/// Bytes gathered before they are handed to the connection. At most a few chunks are under way.
const CHUNK: usize = 128 * 1024;

/// Signature, flags and length of the header extension.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// Field count of the trailer.
const TRAILER: i16 = -1;

/// Length of a NULL.
pub const NULL: i32 = -1;

/// Why a COPY did not come to its end.
#[derive(Debug)]
pub enum CopyError {
    /// It did not begin.
    Refused(tokio_postgres::Error),
    Server(tokio_postgres::Error),
    Codec(CodecError),
    Decode(rsrepl_wire::DecodeError),
}

impl From<tokio_postgres::Error> for CopyError {
    fn from(error: tokio_postgres::Error) -> Self {
        CopyError::Server(error)
    }
}

impl From<CodecError> for CopyError {
    fn from(error: CodecError) -> Self {
        CopyError::Codec(error)
    }
}

impl From<rsrepl_wire::DecodeError> for CopyError {
    fn from(error: rsrepl_wire::DecodeError) -> Self {
        CopyError::Decode(error)
    }
}

/// One row of the COPY: a field count, then each field.
pub struct Tuple<'a>(&'a mut BytesMut);

impl<'a> Tuple<'a> {
    /// `fields` as COPY's column list has them.
    pub fn start(out: &'a mut BytesMut, fields: i16) -> Self {
        out.put_i16(fields);
        Tuple(out)
    }

    /// The next field. An unchanged value has no place in a COPY.
    pub fn put(&mut self, value: Value<'_>, codec: Codec) -> Result<(), CodecError> {
        put_field(self.0, value, codec)
    }
}

/// Appends a field: its length, -1 for NULL, and its value. An unchanged value is none.
pub fn put_field(out: &mut BytesMut, value: Value<'_>, codec: Codec) -> Result<(), CodecError> {
    match value {
        Value::Data(data) => put_counted(out, |out| codec.put(data, out)),
        Value::Null => {
            out.put_i32(NULL);
            Ok(())
        }
        Value::Unchanged => Err(CodecError { what: "whole row", len: 0 }),
    }
}

/// Appends what `write` appends, after its length.
pub fn put_counted<E: From<CodecError>>(
    out: &mut BytesMut,
    write: impl FnOnce(&mut BytesMut) -> Result<(), E>,
) -> Result<(), E> {
    let at = out.len();
    out.put_i32(0);
    write(out)?;
    let len = out.len() - at - size_of::<i32>();
    let len = i32::try_from(len).map_err(|_| CodecError { what: "field", len })?;
    if let Some(field) = out.get_mut(at..at + size_of::<i32>()) {
        field.copy_from_slice(&len.to_be_bytes());
    }
    Ok(())
}

/// Sends `rows`, each written by `put` as one [`Tuple`], and gives the server's count of them.
pub async fn copy<T>(
    client: &Client,
    statement: &Statement,
    rows: impl IntoIterator<Item = T, IntoIter: Send> + Send,
    put: impl Fn(&T, &mut BytesMut) -> Result<(), CopyError> + Send,
) -> Result<u64, CopyError>
where
    T: Send,
{
    let sink = client.copy_in::<_, Bytes>(statement).await.map_err(CopyError::Refused)?;
    let mut sink = pin!(sink);
    let mut buffer = BytesMut::with_capacity(2 * CHUNK);
    buffer.put_slice(HEADER);
    for row in rows {
        put(&row, &mut buffer)?; // dropping the sink fails the COPY on the server
        if buffer.len() >= CHUNK {
            sink.send(buffer.split().freeze()).await?;
            buffer.reserve(2 * CHUNK);
        }
    }
    buffer.put_i16(TRAILER);
    sink.send(buffer.freeze()).await?;
    Ok(sink.finish().await?)
}

#[cfg(test)]
mod tests {
    use super::super::codec::Plain;
    use super::*;

    #[test]
    fn a_tuple_is_counted_fields_with_lengths() {
        let mut out = BytesMut::new();
        let mut tuple = Tuple::start(&mut out, 3);
        tuple.put(Value::Data(&[1, 0, 0, 0]), Codec::Plain(Plain::Fields(&[4]))).unwrap();
        tuple.put(Value::Null, Codec::Plain(Plain::Raw)).unwrap();
        tuple.put(Value::Data(b""), Codec::Plain(Plain::Raw)).unwrap();
        assert!(tuple.put(Value::Unchanged, Codec::Plain(Plain::Raw)).is_err());
        assert_eq!(out[..], [0, 3, 0, 0, 0, 4, 0, 0, 0, 1, 255, 255, 255, 255, 0, 0, 0, 0]);
    }
}
