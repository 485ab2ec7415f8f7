//! A wire to a server that can be cut in the midst of a commit.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

/// When the wire is cut, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Before the server gets it.
    Before = 1,
    /// After the server has got it, and had the time to commit, and before its answer is through.
    After = 2,
    /// The server gets it when the client has given up, and may have asked already what came of it.
    Late = 3,
}

/// How late.
const LATE: Duration = Duration::from_millis(40);

/// Passes everything on between clients and a server, until it is told to cut.
#[derive(Debug)]
pub(crate) struct Wire {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    server: SocketAddr,
    /// What a client says that is to be cut.
    mark: &'static [u8],
    armed: AtomicU8,
    cuts: [AtomicU64; 3],
}

impl Wire {
    /// A wire to the server at this port, which is cut at what contains the mark.
    pub(crate) async fn to(port: u16, mark: &'static [u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = SocketAddr::from(([127, 0, 0, 1], port));
        let state = Arc::new(State { server, mark, armed: AtomicU8::new(0), cuts: Default::default() });
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, Arc::clone(&shared)));
            }
        });
        Self { address, state }
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://{}:{}@{}/postgres", pg_cluster::USER, pg_cluster::PASSWORD, self.address)
    }

    /// Cuts the next one that is marked.
    pub(crate) fn arm(&self, cut: Cut) {
        self.state.armed.store(cut as u8, Ordering::SeqCst);
    }

    /// Cuts in one way after the other, for ever.
    pub(crate) async fn cut_over_and_over(self: Arc<Self>, pause: Duration) {
        for cut in [Cut::Before, Cut::After, Cut::Late].into_iter().cycle() {
            sleep(pause).await;
            self.arm(cut);
        }
    }

    /// How often it was cut in this way.
    pub(crate) fn cuts(&self, cut: Cut) -> u64 {
        self.state.cuts[cut as usize - 1].load(Ordering::SeqCst)
    }
}

async fn pass(mut client: TcpStream, state: Arc<State>) {
    let Ok(mut server) = TcpStream::connect(state.server).await else { return };
    let (mut asked, mut answered) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        tokio::select! {
            read = client.read(&mut asked) => {
                let Some(length) = read.ok().filter(|length| *length > 0) else { return };
                let piece = &asked[..length];
                let marked = piece.windows(state.mark.len()).any(|window| window == state.mark);
                let cut = if marked { state.armed.swap(0, Ordering::SeqCst) } else { 0 };
                if cut > 0 {
                    state.cuts[usize::from(cut) - 1].fetch_add(1, Ordering::SeqCst);
                }
                if cut == Cut::Late as u8 {
                    drop(client);
                    sleep(LATE).await;
                    let _ = server.write_all(piece).await;
                    let _ = timeout(Duration::from_millis(100), server.read(&mut answered)).await;
                    return;
                }
                if cut == Cut::Before as u8 || server.write_all(piece).await.is_err() {
                    return;
                }
                if cut == Cut::After as u8 {
                    // The server answers into the void, and is gone with its answer.
                    let _ = timeout(Duration::from_millis(100), server.read(&mut answered)).await;
                    return;
                }
            }
            read = server.read(&mut answered) => {
                let Some(length) = read.ok().filter(|length| *length > 0) else { return };
                if client.write_all(&answered[..length]).await.is_err() {
                    return;
                }
            }
        }
    }
}
