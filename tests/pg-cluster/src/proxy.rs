//! Stands between a client and PostgreSQL and counts what goes over the wire.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What was counted, on all connections together. What opens a connection is not in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages `ReadyForQuery` of the server: each ends what a client sent as one `Query`, or up to one
    /// `Sync`, and mostly waits for. What a client sends without waiting for the answer before is counted
    /// just so.
    pub round_trips: u64,
    /// Messages `Query` and `Execute` of the client. A `Query` with several statements counts once, and what
    /// a function does inside the server does not count.
    pub statements: u64,
    /// Messages `Parse` of the client: statements that were prepared.
    pub prepared: u64,
    /// Connections that were opened.
    pub connections: u64,
}

impl Counts {
    /// What was counted since an earlier look.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            round_trips: self.round_trips - earlier.round_trips,
            statements: self.statements - earlier.statements,
            prepared: self.prepared - earlier.prepared,
            connections: self.connections - earlier.connections,
        }
    }
}

#[derive(Debug, Default)]
struct Counters {
    round_trips: AtomicU64,
    statements: AtomicU64,
    prepared: AtomicU64,
    connections: AtomicU64,
}

/// A proxy on a port of its own, as long as it lives.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    counters: Arc<Counters>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// In front of the server on this port of this machine. It needs a tokio runtime to run on.
    ///
    /// # Errors
    /// If no port is free.
    pub async fn start(server: u16) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let counters = Arc::new(Counters::default());
        let counting = Arc::clone(&counters);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // A connection that breaks is for its two ends to complain about.
                tokio::spawn(pass(client, server, Arc::clone(&counting)));
            }
        });
        Ok(Self { port, counters, task })
    }

    /// The port that it listens on, at 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What was counted since it was started.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let of = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
        Counts {
            round_trips: of(&self.counters.round_trips),
            statements: of(&self.counters.statements),
            prepared: of(&self.counters.prepared),
            connections: of(&self.counters.connections),
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(client: TcpStream, server: u16, counters: Arc<Counters>) -> io::Result<()> {
    let server = TcpStream::connect(("127.0.0.1", server)).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    // Requests for encryption are answered here: what is to be counted has to be read.
    loop {
        let length = from_client.read_u32().await?;
        let code = from_client.read_u32().await?;
        let rest = (length as usize).checked_sub(8).ok_or_else(too_short)?;
        let mut body = vec![0; rest];
        from_client.read_exact(&mut body).await?;
        const SSL: u32 = 80_877_103;
        const GSS: u32 = 80_877_104;
        if code == SSL || code == GSS {
            to_client.write_all(b"N").await?;
            continue;
        }
        to_server.write_all(&[&length.to_be_bytes()[..], &code.to_be_bytes()[..], &body].concat()).await?;
        break;
    }
    counters.connections.fetch_add(1, Ordering::SeqCst);
    let ours = Arc::clone(&counters);
    let asking = tokio::spawn(async move {
        let count = |kind| match kind {
            b'Q' | b'E' => _ = ours.statements.fetch_add(1, Ordering::SeqCst),
            b'P' => _ = ours.prepared.fetch_add(1, Ordering::SeqCst),
            _ => {}
        };
        copy(&mut from_client, &mut to_server, count).await
    });
    let mut opening = true;
    let count = |kind| {
        // The first one ends the opening.
        if kind == b'Z' && !std::mem::take(&mut opening) {
            counters.round_trips.fetch_add(1, Ordering::SeqCst);
        }
    };
    let answered = copy(&mut from_server, &mut to_client, count).await;
    asking.abort();
    answered
}

/// Passes bytes on as they come, and says of which kind each message is, before it is passed on.
async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    mut count: impl FnMut(u8),
) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    // Of the message that is under way: its head as far as it is there, and how much of its body is to come.
    let (mut head, mut body) = (Vec::with_capacity(5), 0_usize);
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        let mut rest = &buffer[..read];
        while !rest.is_empty() {
            let skipped = body.min(rest.len());
            (rest, body) = (&rest[skipped..], body - skipped);
            while head.len() < 5
                && body == 0
                && let Some((byte, more)) = rest.split_first()
            {
                head.push(*byte);
                rest = more;
            }
            if let [kind, length @ ..] = &*head
                && let Ok(length) = <[u8; 4]>::try_from(length)
            {
                count(*kind);
                // The length counts itself, and not the kind.
                body = (u32::from_be_bytes(length) as usize).checked_sub(4).ok_or_else(too_short)?;
                head.clear();
            }
        }
        to.write_all(&buffer[..read]).await?;
    }
}

fn too_short() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a message that is shorter than its head")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test stops at a fault")]
mod tests {
    use tokio_postgres::NoTls;

    use super::*;

    #[tokio::test]
    async fn messages_are_found_however_they_are_cut() {
        let message = |kind: u8, body: &[u8]| {
            let length = (body.len() as u32 + 4).to_be_bytes();
            [&[kind][..], &length, body].concat()
        };
        // Bodies that look like messages, and none at all.
        let bodies: [&[u8]; 4] = [b"", b"Z\0\0\0\x05Z", &[b'Z'; 300], b"x"];
        let kinds = *b"QZPZ";
        let bytes: Vec<u8> = kinds.iter().zip(bodies).flat_map(|(kind, body)| message(*kind, body)).collect();
        for size in 1..bytes.len() {
            let (mut there, mut here) = tokio::io::duplex(size);
            let sent = bytes.clone();
            let sender = tokio::spawn(async move {
                there.write_all(&sent).await.unwrap();
            });
            let (mut found, mut passed) = (Vec::new(), Vec::new());
            copy(&mut here, &mut passed, |kind| found.push(kind)).await.unwrap();
            sender.await.unwrap();
            assert_eq!((found, &passed), (kinds.to_vec(), &bytes), "in pieces of {size}");
        }
    }

    #[tokio::test]
    async fn a_known_exchange_is_counted() {
        let Some(cluster) = crate::own(&[]) else { return };
        let server = cluster.server();
        let proxy = Proxy::start(server.port()).await.unwrap();
        let url = cluster.url().replace(&format!(":{}/", server.port()), &format!(":{}/", proxy.port()));
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
        tokio::spawn(connection);
        let counts =
            |round_trips, statements, prepared| Counts { round_trips, statements, prepared, connections: 1 };
        // The opening is not in it.
        assert_eq!(proxy.counts(), counts(0, 0, 0));
        client.batch_execute("CREATE TABLE t (a int); INSERT INTO t VALUES (1)").await.unwrap();
        assert_eq!(proxy.counts(), counts(1, 1, 0));
        let insert = client.prepare("INSERT INTO t VALUES ($1)").await.unwrap();
        assert_eq!(proxy.counts(), counts(2, 1, 1));
        client.execute(&insert, &[&2]).await.unwrap();
        assert_eq!(proxy.counts(), counts(3, 2, 1));
        // Two at once: each has an answer of its own.
        let (one, other) = tokio::join!(client.execute(&insert, &[&3]), client.execute(&insert, &[&4]));
        assert_eq!((one.unwrap(), other.unwrap()), (1, 1));
        assert_eq!(proxy.counts(), counts(5, 4, 1));
        // A fault is an answer, too. The client hears of it before the answer ends, so it is counted behind.
        assert!(client.batch_execute("SELECT 1 / 0").await.is_err());
        let rows = client.query_one("SELECT count(*) FROM t", &[]).await.unwrap();
        assert_eq!(rows.get::<_, i64>(0), 4);
        assert_eq!(proxy.counts(), counts(8, 6, 2));
    }
}
