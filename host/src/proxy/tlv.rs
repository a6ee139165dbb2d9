//! TLV sessions: one client, one upstream connection, frames in both directions.
//!
//! One task serves both directions. Bytes are read into a leased buffer, the
//! frames in them are found and counted, and they are written on from the same
//! memory, whole frames in one write; a session at rest holds no buffer. A side
//! that does not take its bytes stops the reading of the other.
//!
//! Only whole frames go on, end marker checked. The one exception is a frame
//! larger than a buffer on a route whose sessions cannot be moved: its body
//! passes in pieces.
//!
//! Where the route names frames to replay or requests that are safe to repeat,
//! a session outlives its node: [`relay`] tells that the upstream is lost,
//! [`moving`] finds another, and [`recovery`] knows what to say to it. Start at
//! [`serve`]; `docs/im.md` is the operator's page.

mod close;
mod down;
mod host;
mod inlet;
mod moving;
mod notices;
mod recovery;
mod relay;
mod scan;
#[cfg(test)]
mod tests;
mod timing;
mod worker;

use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

pub use super::dial::Link;
pub use close::CloseReason;
pub use down::Down;
pub use host::{DialOrder, Host};
pub(super) use timing::random_share;
pub use worker::watch;

use crate::filter::ConnectionScope;
use crate::frame::FrameDecoder;
use crate::message::Client;
use crate::net::{Accepted, Drain, LazyTimer, LeasedBuffer, Listener, Stream};
use crate::observe::{ConnectionRecord, ReasonFamily, Times, UpstreamRecord};
use crate::snapshot::{StreamRoute, TlvSettings};
pub(super) use inlet::{Inlet, Pace};
use notices::Notices;
use recovery::Recovery;
use relay::Step;
pub(super) use scan::Header;
use scan::Held;

/// Serves one client until either side ends. Counts and logs the session.
///
/// `settings` are those of the route. Not an async function itself: its
/// arguments would stay in the future beside the session made of them.
pub fn serve<H: Host>(
    host: Rc<H>,
    route: Arc<StreamRoute>,
    settings: Arc<TlvSettings>,
    accepted: Accepted,
) -> impl Future<Output = ()> + 'static {
    let Accepted { stream, client, listener, first, drain, started, .. } = accepted;
    serve_over(host, route, settings, stream, Origin { client, listener, first, drain, started })
}

/// Where a session comes from.
pub struct Origin {
    /// Who the client is.
    pub client: Arc<Client>,
    /// The listener it came in by.
    pub listener: Arc<Listener>,
    /// Bytes of frames that were read already.
    pub first: Option<LeasedBuffer>,
    /// Tells when the session is to end.
    pub drain: Drain,
    /// When it began.
    pub started: Instant,
}

/// [`serve`], over whatever carries the client's frames.
pub fn serve_over<H: Host, D: Down>(
    host: Rc<H>,
    route: Arc<StreamRoute>,
    settings: Arc<TlvSettings>,
    down: D,
    origin: Origin,
) -> impl Future<Output = ()> + 'static {
    let mut session = Session::new(host, route, settings, down, origin);
    async move {
        let reason = session.run().await;
        Box::pin(session.finish(reason)).await;
    }
}

/// One direction of a session.
#[derive(Debug, Default)]
struct Flow {
    inlet: Inlet,
    decoder: FrameDecoder,
    /// Bytes in front that are decided on and go on.
    ready: usize,
    /// Of these, what the other side's socket has taken.
    written: usize,
    /// Of these, what [`Recovery`] has been told of: whole frames.
    accounted: usize,
    /// What the frame in front needs, as far as known.
    need: usize,
    /// When the frame that is incomplete began.
    partial_since: Option<Instant>,
    /// Since when the other side takes nothing.
    blocked_since: Option<Instant>,
    /// The source has ended; with the error if it broke.
    end: Option<End>,
    /// The rest of the large frame that is passing is thrown away.
    discards: bool,
    /// The last read took a common buffer whole.
    is_fast: bool,
    /// The sink holds bytes that need a flush.
    unflushed: bool,
    /// The source's end was passed on.
    shut: bool,
    bytes: u64,
    frames: u64,
}

/// How a source ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Closed,
    Broken,
}

/// A session's whole state. Its size is the memory of an idle session: what
/// few sessions need is boxed.
struct Session<H: Host, D: Down = Stream> {
    host: Rc<H>,
    route: Arc<StreamRoute>,
    settings: Arc<TlvSettings>,
    client: Arc<Client>,
    listener: Arc<Listener>,
    drain: Drain,
    down: D,
    up: Option<Link>,
    inward: Flow,
    outward: Flow,
    timer: LazyTimer,
    started: Instant,
    /// When the client was last heard.
    heard: Instant,
    /// When the task was last polled: the clock of one poll.
    now: Instant,
    /// When and why to end, once something has decided that it shall.
    ending: Option<(Instant, Ending)>,
    /// When one side ended while the other went on.
    half_closed: Option<Instant>,
    revision: u64,
    /// The user of the first frame.
    user: Option<u64>,
    recovery: Option<Box<Recovery>>,
    notices: Option<Box<Notices>>,
    held: Option<Box<Held>>,
    /// What modules said of frames that are still to come.
    // Boxed: few sessions meet modules.
    rulings: Option<Box<scan::Rulings>>,
    /// A number for modules, unique on the node.
    connection: u64,
    /// What filters hold for the connection while it lives, and have decided.
    scope: Option<Box<ConnectionScope>>,
    attempts: u32,
    /// The first frame has come and was welcome.
    begun: bool,
    /// The upstream said goodbye: its close is for the client.
    farewell: bool,
    /// The upstream takes nothing more.
    write_failed: bool,
    logged: bool,
}

/// What makes a session end at its leisure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Drain,
    Change,
}

impl<H: Host, D: Down> Session<H, D> {
    fn new(
        host: Rc<H>,
        route: Arc<StreamRoute>,
        settings: Arc<TlvSettings>,
        down: D,
        origin: Origin,
    ) -> Self {
        let now = Instant::now();
        route.metrics.opened(host.metrics());
        let is_movable = settings.is_movable();
        Self {
            revision: host.revision(),
            down,
            up: None,
            inward: Flow { inlet: Inlet::new(origin.first), ..Flow::default() },
            outward: Flow::default(),
            timer: LazyTimer::new(),
            started: origin.started,
            heard: now,
            now,
            ending: None,
            half_closed: None,
            user: None,
            recovery: is_movable.then(Box::default),
            notices: None,
            held: None,
            rulings: None,
            connection: next_connection(),
            scope: None,
            attempts: 0,
            begun: false,
            farewell: false,
            write_failed: false,
            logged: false,
            client: origin.client,
            listener: origin.listener,
            drain: origin.drain,
            host,
            route,
            settings,
        }
    }

    /// The story of a session. The rare steps are boxed, so that their size is
    /// not every session's.
    async fn run(&mut self) -> CloseReason {
        if self.route.chain.sees_connections() {
            let mut scope = Box::<ConnectionScope>::default();
            let route = Arc::clone(&self.route);
            let admitted = Box::pin(super::tcp::admit(&route, &self.client, &mut scope)).await;
            for note in scope.notes() {
                self.host.metrics().verdict(&note.plugin, &note.verdict);
            }
            self.scope = Some(scope);
            if let Err(code) = admitted {
                return CloseReason::Filter(code);
            }
        }
        if !self.settings.is_client_first()
            && let Err(reason) = Box::pin(self.connect()).await
        {
            return reason;
        }
        loop {
            let outcome = match std::future::poll_fn(|context| self.poll(context)).await {
                Step::Connect => Box::pin(self.connect()).await,
                Step::Move => Box::pin(self.move_over()).await,
                Step::Close(reason) => Err(reason),
            };
            if let Err(reason) = outcome {
                return reason;
            }
        }
    }

    /// Tells the client where that is due, ends both connections as the reason
    /// asks, and writes the session's line.
    async fn finish(&mut self, reason: CloseReason) {
        self.log(reason);
        if let Some(mut up) = self.up.take() {
            // Half of a large frame went through: an orderly end would make it look whole.
            if self.inward.decoder.is_between_frames() && !self.write_failed {
                let _ = tokio::time::timeout(FAREWELL_TIME, up.stream.shutdown()).await;
            } else {
                up.stream.abort();
            }
        }
        let is_cut = !D::WHOLE && (!self.outward.decoder.is_between_frames() || self.outward.written > 0);
        self.down.ending(reason);
        if is_cut || matches!(reason, CloseReason::ClientReset | CloseReason::ClientStalled) {
            self.down.cut();
            return;
        }
        if reason.is_told() {
            self.notice_error(reason.number(), reason.code(), None);
        }
        self.inward.inlet.clear();
        self.outward.inlet.clear();
        let (down, notices) = (&mut self.down, &mut self.notices);
        let farewell = async {
            if let Some(notices) = notices {
                down.write_all(notices.rest()).await?;
                down.flush().await?;
            }
            linger(down).await
        };
        let _ = tokio::time::timeout(FAREWELL_TIME, farewell).await;
    }

    fn log(&mut self, reason: CloseReason) {
        if std::mem::replace(&mut self.logged, true) {
            return;
        }
        let metrics = self.host.metrics();
        self.route.metrics.closed(metrics);
        metrics.reason(ReasonFamily::Close, reason.code());
        let user = self.user.map(|user| user.to_string()).unwrap_or_default();
        let upstream = self.up.as_ref().map(Link::record).unwrap_or_default();
        let id = self.route.upstream.as_deref().map_or("", |upstream| &upstream.id);
        let verdicts = super::tcp::verdicts(self.scope.as_deref());
        self.host.log_connection(&ConnectionRecord {
            client: &self.client,
            listener: self.listener.id.as_str(),
            protocol: self.down.protocol(),
            route: &self.route.id,
            upstream: UpstreamRecord { id, attempts: self.attempts, ..upstream },
            bytes_in: self.inward.bytes,
            bytes_out: self.outward.bytes,
            frames_in: self.inward.frames,
            frames_out: self.outward.frames,
            user: &user,
            times: Times {
                total: self.started.elapsed(),
                connect: self.up.as_ref().map(|link| link.connect_time),
                ..Times::default()
            },
            reason: reason.code(),
            verdicts: &verdicts,
            request_id: "",
        });
    }
}

impl<H: Host, D: Down> Drop for Session<H, D> {
    /// However a session goes, its line is written: a drain's deadline drops the future.
    fn drop(&mut self) {
        self.log(CloseReason::Aborted);
    }
}

/// Ends the writing side and waits for the other's end. Closing a socket with
/// unread bytes would reset it, and the last frame sent might never arrive.
async fn linger<D: Down>(down: &mut D) -> std::io::Result<()> {
    down.shutdown().await?;
    let mut discarded = [0; 1024];
    let mut budget = 64 * 1024_usize;
    while budget > 0 {
        match down.read(&mut discarded).await? {
            0 => break,
            count => budget = budget.saturating_sub(count),
        }
    }
    Ok(())
}

/// A number for the next session.
/// A number no other connection of this process has or had.
pub(super) fn next_connection() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// How long the end of a session may take: last bytes out, the peer's end in.
const FAREWELL_TIME: Duration = Duration::from_millis(800);
