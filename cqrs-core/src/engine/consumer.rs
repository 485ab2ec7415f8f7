//! Followers of the log.
use crate::projection::Projection;
pub(crate) trait Consumer: Send {}
pub(crate) struct DocumentConsumer<P>(std::marker::PhantomData<P>);
impl<P: Projection> DocumentConsumer<P> {
    pub(crate) fn boxed() -> Box<dyn Consumer> {
        Box::new(Self(std::marker::PhantomData))
    }
}
impl<P: Projection> Consumer for DocumentConsumer<P> {}
