//! The way from the spool to repositories. Order is kept, what was not acknowledged is sent again, for days if need be;
//! nothing is dropped. Failures are logs and metrics, never audit messages: those would feed themselves.

mod feed;
mod fhir;
mod syslog;

use std::time::Duration;

pub use feed::feed;
pub use fhir::{FhirTarget, fhir_feed};
pub use syslog::{SyslogTarget, syslog};

use crate::AuditError;
use crate::message::Dialect;
use crate::sink::AuditSink;
use crate::spool::{Cursor, Outgoing};

const SHORTEST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The next pause after a failure.
fn longer(pause: Duration) -> Duration {
    (pause * 2).min(LONGEST_PAUSE)
}

/// A repository that acknowledges in its own way.
trait Receiver: Send + Sync {
    /// Records between two acknowledgements at most.
    const BATCH: usize;

    /// Under which its cursor is kept.
    fn name(&self) -> String;

    /// Delivers a batch; returns up to where nothing needs to be sent again.
    fn deliver(&self, sink: &AuditSink, batch: &[Outgoing]) -> impl Future<Output = Result<Cursor, AuditError>> + Send;
}

/// Delivers the spool's records until the process ends.
async fn deliver<R: Receiver>(sink: AuditSink, to: R) {
    let most = R::BATCH;
    let receiver = to.name();
    let mut end = sink.end();
    let mut pause = SHORTEST_PAUSE;
    let (mut cursor, mut reader) = sink.resume(&receiver);
    loop {
        let until = *end.borrow_and_update();
        let delivered = match reader.records(until, cursor, most) {
            Ok(batch) if batch.is_empty() => {
                if end.changed().await.is_err() {
                    return;
                }
                continue;
            }
            Ok(batch) => to.deliver(&sink, &batch).await.and_then(|safe| Ok(sink.delivered(&receiver, safe)?)),
            Err(error) => Err(error),
        };
        match delivered {
            Ok(()) => pause = SHORTEST_PAUSE,
            Err(error) => {
                tracing::warn!(receiver, reason = %error, "audit records will be sent again");
                tokio::time::sleep(pause).await;
                pause = longer(pause);
                (cursor, reader) = sink.resume(&receiver);
            }
        }
    }
}

impl Outgoing {
    /// The message for a foreign receiver of this dialect; heartbeats stay in our own repository.
    fn message(&self, dialect: Dialect) -> Option<&str> {
        if self.record.transaction == crate::message::HEARTBEAT {
            return None;
        }
        match dialect {
            Dialect::Ihe => Some(&self.record.xml),
            // Written before a receiver took this dialect: the strict form is better than nothing.
            Dialect::Ehdsi => Some(self.record.ehdsi.as_deref().unwrap_or(&self.record.xml)),
        }
    }
}
