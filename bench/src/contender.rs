//! What every contender is asked to do: one bank, the same work, each in the way that its own
//! documentation shows.

use std::future::Future;

/// Where a contender keeps what it stores.
#[derive(Clone, Debug)]
pub struct Place {
    /// The URL of an empty database of the contender's own on the benchmark's PostgreSQL server, whose role
    /// may do everything there: `postgres://user:password@127.0.0.1:port/database`.
    pub postgres: String,
    /// An empty directory of the contender's own.
    pub dir: std::path::PathBuf,
    /// Up to how many connections it may open, where it has a pool.
    pub connections: u32,
}

/// What a command came to. Anything else is a fault, and ends the run of this contender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its event is stored.
    Accepted,
    /// The account does not have the money; nothing is stored.
    Refused,
}

/// What a contender is, and what it does less than others. It stands beside its figures.
#[derive(Clone, Debug)]
pub struct About {
    /// Its name in tables and plots, and on the command line, such as `cqrs-es`.
    pub name: &'static str,
    /// What stores its events: `memory`, `SQLite` or `PostgreSQL`.
    pub store: &'static str,
    /// The packages whose versions the lock file tells, the main one first.
    pub packages: &'static [&'static str],
    /// What it leaves out or does otherwise, one short sentence each, such as
    /// `No order over all streams.`; empty if it does all that the others do.
    pub less: &'static [&'static str],
}

/// One contender, open. The bank is the same for all: an account is opened, money is put in, and taken
/// out if it is there. Amounts are cents. An event is about 130 bytes of JSON: the amount and a
/// [`REFERENCE`].
///
/// A command goes the way that the contender's users would take: through its aggregate, its command
/// handler, its repository. If somebody else wrote first, it tries again as its documentation shows, and
/// counts that with [`retried`](crate::retried).
pub trait Contender: Sized + Send + Sync + 'static {
    /// What it is.
    fn about() -> About;

    /// Opens it in an empty place, and creates what it needs there.
    fn open(place: &Place) -> impl Future<Output = anyhow::Result<Self>> + Send;

    /// Opens an account that is not open, which stores one event.
    fn open_account(&self, account: u64) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// Puts money in, which stores one event.
    fn deposit(&self, account: u64, cents: u64) -> impl Future<Output = anyhow::Result<Outcome>> + Send;

    /// Takes money out if it is there, which stores one event; or else refuses and stores none.
    fn withdraw(&self, account: u64, cents: u64) -> impl Future<Output = anyhow::Result<Outcome>> + Send;

    /// The balance of an account as its events tell it: read and folded anew, from no memory and no
    /// snapshot.
    fn rehydrate(&self, account: u64) -> impl Future<Output = anyhow::Result<u64>> + Send;

    /// How many events are stored, by a count that does not go through the contender's own code where
    /// there is another way.
    fn stored(&self) -> impl Future<Output = anyhow::Result<u64>> + Send;

    /// Builds a read model of all accounts and their balances from the first event to the last, durable
    /// where the contender can have it durable, and waits until it is there. `None` if the contender has
    /// nothing of the kind.
    fn project(&self) -> impl Future<Output = anyhow::Result<Option<()>>> + Send;

    /// The balance of an account in the read model that [`project`](Self::project) built.
    fn projected(&self, account: u64) -> impl Future<Output = anyhow::Result<Option<u64>>> + Send;

    /// Ends what runs in the background.
    fn close(self) -> impl Future<Output = anyhow::Result<()>> + Send;
}

/// What each posting carries besides its amount, so that an event has about 130 bytes.
pub const REFERENCE: &str =
    "invoice 2026-11-0042 of the northern branch, paid in cash at the counter, thank you very much";
