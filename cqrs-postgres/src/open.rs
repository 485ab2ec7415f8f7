//! Opening the database: what it has to be, and how each connection is set up.

use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cqrs_core::error::StoreErrorKind;
use cqrs_core::store::LogId;
use foldhash::{HashMap, HashSet};
use futures_util::{StreamExt as _, TryStreamExt as _, future, stream};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::error::{DbError, SqlState};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{AsyncMessage, Client, Config, Connection, Row, RowStream, Statement};
use uuid::Uuid;

use crate::dial::Dialer;
use crate::drive::Drive;
use crate::error::Fault;
use crate::limit::within;
use crate::readers::Running;
use crate::schema::{self, Meta, Schema, Versions};
use crate::server::{Heard, Key, Server};
use crate::statements::GUARD;
use crate::url;

/// Before this version, an index of many equal entries grows without bounds.
const OLDEST: i32 = 130_000;

/// Where the store is, and how it is reached.
pub(crate) struct Place {
    config: Config,
    pub(crate) schema: Schema,
    /// Whether PgBouncer stands between, in its transaction mode: then nothing may be left behind in a
    /// session, neither a setting nor a prepared statement nor an ear.
    pub(crate) bouncer: bool,
    pub(crate) timeouts: Timeouts,
    dialer: Dialer,
    /// The connections that are shared with other stores of this process.
    pub(crate) server: Arc<Server>,
    /// Where work is done for callers that are in no runtime themselves.
    runtime: Handle,
}

impl std::fmt::Debug for Place {
    // The configuration prints without its password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Place({}, schema {}, bouncer {})",
            url::shown(&self.config),
            self.schema.name(),
            self.bouncer
        )
    }
}

/// All time limits of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timeouts {
    /// For another session that has the lock.
    pub(crate) lock: Duration,
    /// For one statement, waiting included. The server keeps to it.
    pub(crate) statement: Duration,
    /// For this process, between two statements of a transaction.
    pub(crate) idle: Duration,
    /// For finding out what became of an append whose connection was lost while it committed.
    pub(crate) resolve: Duration,
}

/// A server that is there cancels a statement before the store gives it up.
const GRACE: Duration = Duration::from_secs(5);

/// How long a connection may take on one host, unless the URL says `connect_timeout`.
const CONNECT: Duration = Duration::from_secs(10);

impl Timeouts {
    /// How long the store itself waits for the answer to a statement, or to a commit.
    pub(crate) fn client(&self) -> Duration {
        self.statement + GRACE
    }

    fn each(&self) -> [(&'static str, u128); 3] {
        [
            ("lock_timeout", self.lock.as_millis()),
            ("statement_timeout", self.statement.as_millis()),
            ("idle_in_transaction_session_timeout", self.idle.as_millis()),
        ]
    }

    /// The beginning of a transaction that keeps to them.
    fn begin(&self) -> String {
        format!("BEGIN ISOLATION LEVEL READ COMMITTED{}", self.limits())
    }

    /// The same, where a session writes nothing unless it is said.
    pub(crate) fn begin_writing(&self) -> String {
        format!("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE{}", self.limits())
    }

    fn limits(&self) -> String {
        self.each().map(|(name, millis)| format!("; SET LOCAL {name} = {millis}")).concat()
    }
}

/// Settings that every statement of ours runs with. The planner plans once for a connection, often while
/// the tables are small, where a walk through all of one looks cheap.
const PLANNER: [(&str, &str); 6] = [
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("jit", "off"),
    ("plan_cache_mode", "force_generic_plan"),
];

/// What a connection is for. All but a reader's are to a server that writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Writer,
    Reader,
    /// For statements of a user's own: it writes only where a transaction says so.
    Guest,
}

impl Place {
    pub(crate) fn new(
        mut config: Config,
        schema: Schema,
        bouncer: bool,
        timeouts: Timeouts,
        dialer: Dialer,
        key: impl FnOnce(Config, tokio::runtime::Id) -> Key,
    ) -> Result<Self, Fault> {
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT);
        }
        if config.get_application_name().is_none() {
            config.application_name("cqrs");
        }
        // A peer that has vanished without a word is noticed within half a minute.
        config.keepalives_idle(Duration::from_secs(15)).keepalives_interval(Duration::from_secs(5));
        config.keepalives_retries(3).tcp_user_timeout(Duration::from_secs(30));
        let runtime = runtime()?;
        let server = Server::of(key(config.clone(), runtime.id()));
        Ok(Self { config, schema, bouncer, timeouts, dialer, server, runtime })
    }

    /// Runs work in a task of the runtime that the caller is in, or else of the one that the store was opened in.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Fault>> + Send + 'static,
    ) -> Running<T> {
        Running::new(Handle::try_current().unwrap_or_else(|_| self.runtime.clone()).spawn(work))
    }

    /// Finds the store, or creates it.
    pub(crate) async fn prepare(self: &Arc<Self>, partitions: Option<u16>) -> Result<Meta, Fault> {
        let conn = self.connect_unchecked().await?;
        schema::prepare(&conn.client, &self.schema, partitions).await
    }

    /// Creates the store, or migrates it to this program's version.
    pub(crate) async fn migrate(self: &Arc<Self>, partitions: Option<u16>) -> Result<(), Fault> {
        let conn = self.connect_unchecked().await?;
        schema::migrate(&conn.client, &self.schema, partitions).await
    }

    /// Gives the log a new id.
    pub(crate) async fn assign_new_log_id(self: &Arc<Self>) -> Result<LogId, Fault> {
        let conn = self.connect_unchecked().await?;
        schema::assign_new_log_id(&conn.client, &self.schema).await
    }

    /// The statements of a migration.
    pub(crate) async fn migration_sql(self: &Arc<Self>, partitions: Option<u16>) -> Result<String, Fault> {
        let conn = self.connect_unchecked().await?;
        schema::migration_sql(&conn.client, &self.schema, partitions).await
    }

    /// A connection to a server that will do, whatever its schema holds.
    async fn connect_unchecked(self: &Arc<Self>) -> Result<Conn, Fault> {
        let (conn, drive) = self.connect_any(Role::Writer, None).await?;
        drive.on_its_own();
        check_server(&conn.client).await?;
        Ok(conn)
    }

    /// A connection of the store's own to the log that was opened, or a fault if another one stands there now.
    /// Its work is done by a task of its own.
    pub(crate) async fn connect(self: &Arc<Self>, role: Role, meta: Meta) -> Result<Conn, Fault> {
        let permit = match role {
            Role::Guest => Some(self.server.guest(self.timeouts.lock).await?),
            Role::Writer | Role::Reader => None,
        };
        let (conn, drive) = self.told(role, self.connect_checked(role, meta, permit)).await?;
        drive.on_its_own();
        Ok(conn)
    }

    /// A connection that writes, of which there is a bounded number. Its work is left to the caller.
    pub(crate) async fn connect_writer(self: &Arc<Self>, meta: Meta) -> Result<(Conn, Drive), Fault> {
        let permit = self.server.writing(self.timeouts.lock).await?;
        self.told(Role::Writer, self.connect_checked(Role::Writer, meta, Some(permit))).await
    }

    /// A connection that other stores use as well. Each of them checks that its own log is there.
    pub(crate) async fn connect_shared(self: &Arc<Self>, role: Role) -> Result<Arc<Link>, Fault> {
        let (conn, drive) = self.told(role, self.connect_any(role, None)).await?;
        drive.on_its_own();
        Ok(conn.link)
    }

    /// A connection that is shared, used for this store.
    pub(crate) async fn on(
        self: &Arc<Self>,
        link: Arc<Link>,
        role: Role,
        meta: Meta,
    ) -> Result<Arc<Conn>, Fault> {
        let conn = Conn { link, place: Arc::clone(self) };
        if !conn.is_checked() {
            let check = within(self.timeouts.client(), "look at the log's id", check_log(&conn, meta, role));
            let checked = check.await;
            if let Err(fault) = &checked
                && (fault.is_timeout() || fault.leaves_server())
            {
                // Otherwise the next caller would wait for the same connection.
                conn.give_up();
            }
            checked?;
            conn.checked();
        }
        Ok(Arc::new(conn))
    }

    async fn connect_checked(
        self: &Arc<Self>,
        role: Role,
        meta: Meta,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<(Conn, Drive), Fault> {
        let (conn, mut drive) = self.connect_any(role, permit).await?;
        let limit = self.timeouts.client();
        drive.along(within(limit, "look at the log's id", check_log(&conn, meta, role))).await?;
        // What is planned there is mostly a user's own. Outside of the store's transactions nothing is written.
        if role == Role::Guest && !self.bouncer {
            drive.along(conn.client.batch_execute(GUARD)).await?;
        }
        Ok((conn, drive))
    }

    async fn told(
        &self,
        role: Role,
        connecting: impl Future<Output = Result<(Conn, Drive), Fault>>,
    ) -> Result<(Conn, Drive), Fault> {
        let connected = connecting.await.map_err(|fault: Fault| match fault.code() {
            // It was there when the store was opened, and may be there again after a restore.
            Some(code) if *code == SqlState::INVALID_CATALOG_NAME => {
                fault.told_as(StoreErrorKind::Unavailable, "the database is not there any more (3D000)")
            }
            _ => fault,
        });
        match &connected {
            Ok((conn, _)) => tracing::debug!(?role, connection = %conn.id, "connected to PostgreSQL"),
            Err(fault) => tracing::warn!(?role, error = %fault, "cannot connect to PostgreSQL"),
        }
        connected
    }

    async fn connect_any(
        self: &Arc<Self>,
        role: Role,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<(Conn, Drive), Fault> {
        let mut config = self.config.clone();
        if !self.bouncer {
            let more = self.options(role);
            let options =
                config.get_options().map_or_else(|| more.clone(), |given| format!("{more} {given}"));
            config.options(options);
        }
        // A standby shows an older log, so one of several hosts is to be the primary. The only host there is may be
        // read while it does not write.
        let wants_any = config.get_target_session_attrs() == TargetSessionAttrs::Any;
        if role != Role::Reader || (wants_any && hosts(&config) > 1) {
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        let doubt = Arc::new(AtomicBool::new(false));
        let (client, connection) = self.dialer.connect(&config).await?;
        let drive = Drive::new(drive(connection, Arc::clone(&doubt)));
        let link = Link {
            client,
            id: Uuid::new_v4(),
            doubt,
            given_up: AtomicBool::new(false),
            turn: tokio::sync::Mutex::default(),
            known: Mutex::default(),
            checked: Mutex::default(),
            _permit: permit,
        };
        Ok((Conn { link: Arc::new(link), place: Arc::clone(self) }, drive))
    }

    /// The beginning of a transaction that keeps to the time limits. Behind a bouncer the connection has not
    /// got our settings, so that the transaction brings them along.
    pub(crate) fn begin(&self) -> String {
        let begin = self.timeouts.begin();
        match self.bouncer {
            true => PLANNER
                .iter()
                .fold(begin, |begin, (name, value)| format!("{begin}; SET LOCAL {name} = {value}")),
            false => begin,
        }
    }

    /// Settings that a connection of our own begins with.
    fn options(&self, role: Role) -> String {
        let mut options = "-c default_transaction_isolation=read\\ committed".to_owned();
        if role != Role::Guest {
            for (name, value) in PLANNER {
                options += &format!(" -c {name}={value}");
            }
        }
        for (name, millis) in self.timeouts.each() {
            options += &format!(" -c {name}={millis}");
        }
        options
    }

    /// Listens for what other processes tell of this store, on a connection that all stores share.
    pub(crate) async fn listen(&self, heard: &Arc<Notify>) -> Result<(), Fault> {
        let connect = |heard| async move {
            let mut config = self.config.clone();
            config.application_name("cqrs listening");
            if hosts(&config) > 1 {
                // A standby does not notify.
                config.target_session_attrs(TargetSessionAttrs::ReadWrite);
            }
            let (client, connection) = self.dialer.connect(&config).await?;
            self.runtime.spawn(hear(connection, heard));
            Ok(client)
        };
        self.server.listen(self.schema.channel(), heard, self.timeouts.client(), connect).await
    }

    pub(crate) fn is_listening(&self) -> bool {
        self.server.is_listening(&self.schema.channel())
    }
}

/// The runtime that the caller is in, which has all that a connection needs.
fn runtime() -> Result<Handle, Fault> {
    let failed = |words: &str| Fault::new(StoreErrorKind::Failed, words);
    let runtime =
        Handle::try_current().map_err(|_| failed("there is no tokio runtime; open the store inside one"))?;
    // Nothing tells whether a runtime has its drivers, except that their use panics without them.
    let has_time = catch_unwind(|| drop(tokio::time::sleep(Duration::ZERO))).is_ok();
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0));
    let has_io = match socket.and_then(|socket| socket.set_nonblocking(true).map(|()| socket)) {
        Ok(socket) => {
            catch_unwind(AssertUnwindSafe(|| drop(tokio::net::UdpSocket::from_std(socket)))).is_ok()
        }
        // Connecting will say what is wrong.
        Err(_) => true,
    };
    match (has_time, has_io) {
        (true, true) => Ok(runtime),
        (false, true) => Err(failed("the tokio runtime has no time driver; build it with `enable_all()`")),
        (true, false) => Err(failed("the tokio runtime has no IO driver; build it with `enable_all()`")),
        (false, false) => {
            Err(failed("the tokio runtime has neither time nor IO driver; build it with `enable_all()`"))
        }
    }
}

fn hosts(config: &Config) -> u32 {
    let count = config.get_hosts().len().max(config.get_hostaddrs().len()).max(1);
    u32::try_from(count).unwrap_or(u32::MAX)
}

const STANDBY: &str =
    "the server is a standby, which only reads; name the primary, or all hosts of the cluster";

async fn check_server(client: &Client) -> Result<(), Fault> {
    let select = "SELECT current_setting('server_version_num')::integer, current_setting('server_version'),
        current_setting('server_encoding'), pg_is_in_recovery()";
    let rows = client.query_typed(select, &[]).await?;
    let row = rows.first().ok_or_else(|| Fault::corrupt("the server does not say what it is"))?;
    let (number, version, encoding): (i32, &str, &str) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    judge(number, version, encoding, row.try_get(3)?)
}

fn judge(number: i32, version: &str, encoding: &str, recovering: bool) -> Result<(), Fault> {
    let unsupported = |words: String| Err(Fault::new(StoreErrorKind::Unsupported, words));
    if number < OLDEST {
        return unsupported(format!("the server is PostgreSQL {version}; 13 or newer is needed"));
    }
    if encoding != "UTF8" {
        return unsupported(format!("the database's encoding is {encoding}; UTF8 is needed"));
    }
    if recovering {
        return Err(Fault::new(StoreErrorKind::Unavailable, STANDBY));
    }
    Ok(())
}

/// Refuses a log that is not the one that was opened, and one that was migrated meanwhile beyond what this
/// program knows.
async fn check_log(conn: &Conn, meta: Meta, role: Role) -> Result<(), Fault> {
    static META: Sql = Sql::new(
        "SELECT m.log, m.partitions, m.version, m.min_reader, m.min_writer, pg_is_in_recovery()
         FROM {s}.meta m",
        &[],
    );
    let row = conn.rows(&META, &[]).await?;
    let row = row.first().ok_or_else(|| Fault::corrupt("the log has no id"))?;
    if row.try_get(5)? {
        return Err(Fault::new(StoreErrorKind::Unavailable, STANDBY));
    }
    let there: (Uuid, i32) = (row.try_get(0)?, row.try_get(1)?);
    if there != (meta.log.0, i32::from(meta.partitions)) {
        return Err(Fault::corrupt(format!(
            "the log {} was replaced by {} since it was opened",
            meta.log, there.0
        )));
    }
    let versions = Versions::of_row(row, 2)?;
    match role {
        Role::Reader => versions.readable(&conn.place.schema),
        Role::Writer | Role::Guest => versions.writable(&conn.place.schema),
    }
}

/// Does the work of a connection until it ends. That a `COMMIT` did not wait for its standby is said by a warning
/// alone, which is remembered before the answer that it belongs to is handed out.
async fn drive<S, T>(mut connection: Connection<S, T>, doubt: Arc<AtomicBool>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut messages = stream::poll_fn(move |context| connection.poll_message(context));
    while let Some(Ok(message)) = messages.next().await {
        if let AsyncMessage::Notice(notice) = message
            && is_of_standby(&notice)
        {
            tracing::warn!(message = notice.message(), "a commit did not wait for its synchronous standby");
            doubt.store(true, Ordering::SeqCst);
        }
    }
}

/// Whether a notice says that a commit no longer waits for its synchronous standby. Other warnings, such as those of
/// a trigger or of a database that needs a vacuum, say nothing about a commit. The routine's name is in no language.
fn is_of_standby(notice: &DbError) -> bool {
    notice.routine() == Some("SyncRepWaitForLSN") || notice.message().contains("synchronous replication")
}

async fn hear<S, T>(mut connection: Connection<S, T>, heard: Heard)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut messages = stream::poll_fn(move |context| connection.poll_message(context));
    while let Some(Ok(message)) = messages.next().await {
        if let AsyncMessage::Notification(told) = message {
            heard.tell(told.channel());
        }
    }
}

/// A statement with the types of its parameters, so that it can be sent without asking the server.
pub(crate) struct Sql {
    text: &'static str,
    types: &'static [Type],
}

impl Sql {
    pub(crate) const fn new(text: &'static str, types: &'static [Type]) -> Self {
        Self { text, types }
    }
}

pub(crate) type Param<'a> = &'a (dyn ToSql + Sync);

/// A connection, used for one store. Several statements may be under way on it at once, and are answered in turn.
pub(crate) struct Conn {
    link: Arc<Link>,
    place: Arc<Place>,
}

impl Deref for Conn {
    type Target = Link;

    fn deref(&self) -> &Link {
        &self.link
    }
}

/// A connection, which several stores may use.
pub(crate) struct Link {
    pub(crate) client: Client,
    /// Names this connection as a writer.
    pub(crate) id: Uuid,
    doubt: Arc<AtomicBool>,
    /// Whether it is not to be used any more, although it has not ended.
    given_up: AtomicBool,
    /// Whose transaction is open on it, where a statement needs one of its own.
    turn: tokio::sync::Mutex<()>,
    /// Statements, by the number of their schema and the address of their text.
    known: Mutex<HashMap<(usize, usize), Known>>,
    /// The schemas whose log was found to be the one that was opened.
    checked: Mutex<HashSet<usize>>,
    /// One of a bounded number of connections.
    _permit: Option<OwnedSemaphorePermit>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Link({}, closed: {})", self.id, self.client.is_closed())
    }
}

impl Link {
    pub(crate) fn is_lost(&self) -> bool {
        self.client.is_closed() || self.given_up.load(Ordering::SeqCst)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(usize, usize), Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone)]
enum Known {
    Prepared(Statement),
    Text(Arc<str>),
}

impl std::fmt::Debug for Conn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Conn({}, closed: {})", self.id, self.client.is_closed())
    }
}

impl Conn {
    /// Sends a statement and gives its rows as they come.
    pub(crate) async fn stream(&self, sql: &'static Sql, params: &[Param<'_>]) -> Result<RowStream, Fault> {
        match self.known(sql).await? {
            Known::Prepared(statement) => {
                Ok(self.client.query_raw(&statement, params.iter().copied()).await?)
            }
            Known::Text(text) => {
                let params = params.iter().copied().zip(sql.types.iter().cloned());
                Ok(self.client.query_typed_raw(&text, params).await?)
            }
        }
    }

    pub(crate) async fn rows(&self, sql: &'static Sql, params: &[Param<'_>]) -> Result<Vec<Row>, Fault> {
        Ok(self.stream(sql, params).await?.try_collect().await?)
    }

    /// How many rows a statement has written.
    pub(crate) async fn execute(&self, sql: &'static Sql, params: &[Param<'_>]) -> Result<u64, Fault> {
        let mut rows = pin!(self.stream(sql, params).await?);
        while rows.try_next().await?.is_some() {}
        Ok(rows.rows_affected().unwrap_or(0))
    }

    /// The one row that a statement gives.
    pub(crate) async fn row(&self, sql: &'static Sql, params: &[Param<'_>]) -> Result<Row, Fault> {
        let rows = self.rows(sql, params).await?;
        rows.into_iter().next().ok_or_else(|| Fault::corrupt("a statement gave no row"))
    }

    /// Has a statement ready, so that sending it later is not preceded by anything.
    async fn known(&self, sql: &'static Sql) -> Result<Known, Fault> {
        // The address of a statement's text serves as its name.
        let name = (self.place.schema.number(), sql.text.as_ptr().addr());
        if let Some(known) = self.lock().get(&name) {
            return Ok(known.clone());
        }
        let text = self.place.schema.text(sql.text);
        let known = match self.place.bouncer {
            true => Known::Text(text.into()),
            false => Known::Prepared(self.client.prepare_typed(&text, sql.types).await?),
        };
        self.lock().insert(name, known.clone());
        Ok(known)
    }

    /// Prepares statements ahead of the transaction that needs them.
    pub(crate) async fn ready(&self, all: &[&'static Sql]) -> Result<(), Fault> {
        future::try_join_all(all.iter().map(|sql| self.known(sql))).await.map(drop)
    }

    /// Runs a statement in a transaction that is read committed and keeps to the limits. A connection of our own has
    /// those settings; behind a bouncer the transaction brings them along, whatever the database's defaults are. All
    /// that the statement sends is to be sent when it is first polled.
    pub(crate) async fn transaction<T>(
        &self,
        statement: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Fault> {
        if !self.place.bouncer {
            return statement.await;
        }
        // Two on one connection must not come between each other.
        let _turn = self.turn.lock().await;
        let begin = self.place.begin();
        // Each is sent when it is first polled, which is in this order.
        let (begun, done, committed) =
            future::join3(self.client.batch_execute(&begin), statement, self.client.batch_execute("COMMIT"))
                .await;
        of_one(begun, done, committed)
    }

    /// Gives it up: whoever looks for a connection opens another one.
    pub(crate) fn give_up(&self) {
        self.given_up.store(true, Ordering::SeqCst);
    }

    /// Whether the log of this store was found on this connection.
    fn is_checked(&self) -> bool {
        let checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        checked.contains(&self.place.schema.number())
    }

    fn checked(&self) {
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        checked.insert(self.place.schema.number());
    }

    /// The beginning of a transaction that keeps to the time limits, also in a session that writes nothing
    /// unless it is said.
    pub(crate) fn begin_writing(&self) -> String {
        self.place.timeouts.begin_writing()
    }

    /// Whether the server has said since this was asked last that a commit did not wait for its standby.
    pub(crate) fn doubted(&self) -> bool {
        self.doubt.swap(false, Ordering::SeqCst)
    }
}

/// What came of one statement that was sent between a `BEGIN` and a `COMMIT`. If the `BEGIN` alone was canceled, the
/// statement was a transaction by itself, and what it answered counts.
pub(crate) fn of_one<T>(
    begun: Result<(), tokio_postgres::Error>,
    done: Result<T, Fault>,
    committed: Result<(), tokio_postgres::Error>,
) -> Result<T, Fault> {
    match (begun, done) {
        (Ok(()), Ok(done)) => Ok(committed.map(|()| done)?),
        (Err(_), Ok(done)) => Ok(done),
        // A failed `BEGIN` says more than what fails because of it.
        (Err(error), Err(fault)) if !fault.ends_connection() => {
            let begun = Fault::from(error);
            Err(if begun.ends_connection() { fault } else { begun })
        }
        (_, Err(fault)) => Err(fault),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The window in which a `BEGIN` is canceled and what follows it is not.
    #[test]
    fn a_statement_whose_begin_failed_counts_as_what_it_answered() {
        let failed = || "nonsense://".parse::<Config>().map(|_| ()).err();
        let (begun, error) = (|| failed().map_or(Ok(()), Err), Fault::corrupt("it did not work"));
        assert!(matches!(of_one(begun(), Ok(1), Ok(())), Ok(1)));
        assert!(matches!(of_one(Ok(()), Ok(1), Ok(())), Ok(1)));
        assert!(of_one(Ok(()), Ok(1), begun()).is_err());
        assert!(of_one::<i32>(begun(), Err(error.clone()), Ok(())).is_err());
        assert!(of_one::<i32>(Ok(()), Err(error), Ok(())).is_err());
    }

    #[test]
    fn servers_that_will_not_do_are_refused_by_name() {
        let told = |number, encoding, recovering| {
            judge(number, "12.22", encoding, recovering).map_err(|fault| fault.told("open").to_string())
        };
        assert_eq!(told(130_000, "UTF8", false), Ok(()));
        assert!(told(120_022, "UTF8", false).is_err_and(|words| words.contains("PostgreSQL 12.22; 13 or")));
        assert!(told(150_000, "LATIN1", false).is_err_and(|words| words.contains("encoding is LATIN1")));
        assert!(told(150_000, "UTF8", true).is_err_and(|words| words.contains("standby")));
    }
}
