//! The way from the spool to repositories. Order is kept, what was not acknowledged is sent again, for days if need be;
//! nothing is dropped. What a receiver will never take is set apart with an alarm, a short note goes in its place, and what
//! follows goes on. Failures are logs and metrics, never audit messages: those would feed themselves.

mod courier;
mod feed;
mod fhir;
mod syslog;

use std::time::Duration;

use courier::{Courier, Delivered, Failure, Receiver};
pub use feed::feed;
pub use fhir::{FhirTarget, fhir_feed};
pub use syslog::{SyslogTarget, syslog};
use tokio::sync::watch;

use crate::message::Dialect;
use crate::sink::AuditSink;
use crate::spool::{Outgoing, Position};

/// What our own repository takes of its feed and by FHIR, bytes of one record.
pub const FEED_BYTES: usize = 16 << 20;
/// Bytes of an acknowledgement of the feed.
pub(crate) const ACK_BYTES: usize = 1 << 20;
/// What our own repository takes by syslog, bytes of one frame; a foreign one says otherwise in the configuration.
pub const SYSLOG_BYTES: usize = 1 << 20;

const SHORTEST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The next pause after a failure.
fn longer(pause: Duration) -> Duration {
    (pause * 2).min(LONGEST_PAUSE)
}

/// Delivers the spool's records until the process ends. The receiver is known to the spool when this returns.
fn deliver<R: Receiver>(sink: AuditSink, to: R) -> impl Future<Output = ()> + Send {
    let end = sink.end();
    carry(Courier::new(sink, to), end)
}

async fn carry<R: Receiver>(mut courier: Courier<R>, mut end: watch::Receiver<Position>) {
    let mut pause = SHORTEST_PAUSE;
    loop {
        let until = *end.borrow_and_update();
        let carried = courier.carry(until).await;
        if courier.progress() {
            pause = SHORTEST_PAUSE;
        }
        match carried {
            Ok(true) => {}
            Ok(false) => {
                if end.changed().await.is_err() {
                    return;
                }
            }
            Err(later) => {
                tracing::warn!(receiver = courier.name, reason = %later.error, "audit records will be sent again");
                courier.wait(later.after.unwrap_or(pause), &mut end).await;
                pause = longer(pause);
                courier.resume();
            }
        }
    }
}

impl Outgoing {
    /// The message for a foreign receiver of this dialect; heartbeats stay in our own repository.
    fn message(&self, dialect: Dialect) -> Option<&str> {
        if self.left_out || self.record.transaction == crate::message::HEARTBEAT {
            return None;
        }
        match dialect {
            Dialect::Ihe => Some(&self.record.xml),
            // Of what cannot be written in it the strict form is better than nothing.
            Dialect::Ehdsi => Some(self.record.ehdsi.as_deref().unwrap_or(&self.record.xml)),
        }
    }
}
