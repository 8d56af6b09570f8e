//! A panic as an error of the session it happened in.

use std::any::Any;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

use crate::error::{Error, Kind, Result};

/// Runs a session of the source or of a target. A panic in it is a fault of that session, told and
/// retried as any other: a task that died of it would leave its target behind for good, with nobody
/// told.
pub(crate) async fn guarded<T>(session: impl Future<Output = Result<T>>) -> Result<T> {
    let mut session = pin!(session);
    // polled no more after a panic, and what it borrowed is opened anew
    poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| session.as_mut().poll(context))) {
        Ok(polled) => polled,
        Err(panic) => Poll::Ready(Err(panicked(&*panic))),
    })
    .await
}

/// What was caught of a panic.
pub(crate) fn panicked(panic: &(dyn Any + Send)) -> Error {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    let message = format!("a panic: {}", text.unwrap_or_default());
    Error::new(Kind::Internal, message).hint("please report it")
}
