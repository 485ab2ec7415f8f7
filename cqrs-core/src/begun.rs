//! A future that works while its owner does something else.

use std::task::Poll;

use crate::store::BoxFuture;

pub(crate) enum Begun<'f, T> {
    Running(BoxFuture<'f, T>),
    Done(T),
}

impl<'f, T> Begun<'f, T> {
    /// Polls it once, as futures begin only then.
    pub(crate) async fn begin(mut future: BoxFuture<'f, T>) -> Self {
        let done = std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await;
        match done {
            Poll::Ready(done) => Self::Done(done),
            Poll::Pending => Self::Running(future),
        }
    }
}
