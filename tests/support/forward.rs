//! Stores that are wrong on purpose pass most calls on.

/// The calls of a `ReadStore` without its `commit`, passed on to a field.
macro_rules! forward_reads {
    ($inner:tt) => {
        fn claim(
            &self,
            consumer: &str,
        ) -> cqrs::store::BoxFuture<'_, Result<cqrs::read_store::Claim, cqrs::error::StoreError>> {
            self.$inner.claim(consumer)
        }
        fn checkpoint(
            &self,
            consumer: &str,
            partition: cqrs::Partition,
        ) -> cqrs::store::BoxFuture<'_, Result<Option<cqrs::read_store::Checkpoint>, cqrs::error::StoreError>>
        {
            self.$inner.checkpoint(consumer, partition)
        }
        fn get(
            &self,
            consumer: &str,
            entries: Vec<cqrs::read_store::EntryKey>,
        ) -> cqrs::store::BoxFuture<'_, Result<Vec<Option<bytes::Bytes>>, cqrs::error::StoreError>> {
            self.$inner.get(consumer, entries)
        }
        fn range(
            &self,
            range: cqrs::read_store::RangeRead,
        ) -> cqrs::store::BoxFuture<'_, Result<Vec<cqrs::read_store::Entry>, cqrs::error::StoreError>> {
            self.$inner.range(range)
        }
    };
}
