//! A request that is sent at once and answered later.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The answer to come.
pub struct Sent<'a, T>(Boxed<'a, T>);

impl<'a, T: Send + 'a> Sent<'a, T> {
    /// Sends `request`. tokio-postgres puts the message into its queue at the first poll, which is made
    /// here: the order of calls is the order on the server.
    pub async fn new(request: impl Future<Output = T> + Send + 'a) -> Sent<'a, T> {
        let mut request: Boxed<'a, T> = Box::pin(request);
        match poll_fn(|context| Poll::Ready(request.as_mut().poll(context))).await {
            Poll::Pending => Sent(request),
            Poll::Ready(answer) => Sent(Box::pin(std::future::ready(answer))),
        }
    }

    pub async fn answer(self) -> T {
        self.0.await
    }
}
