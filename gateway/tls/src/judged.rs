//! Connections between our own programs live for days: the other end's certificate is judged again while one is open, so that
//! a CRL that came, a status or a certificate that ended counts for it as for a new one.

use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::ssl::{SslContext, SslContextBuilder, SslRef};
use openssl::x509::X509;
use tokio::time::{Instant, Sleep};

use crate::revocation::{now, unix};
use crate::{Counterpart, TlsError, ssl_error};

/// How often the certificate of an open connection is checked again. Where no file changed, a check reads two file times.
const EVERY: Duration = Duration::from_secs(10);

/// Where a context keeps who may be at the other end.
static ADMITTED: LazyLock<Result<Index<SslContext, Counterpart>, ErrorStack>> = LazyLock::new(SslContext::new_ex_index);

/// The connections of a context are judged again by `counterpart`.
pub(crate) fn judge_by(builder: &mut SslContextBuilder, counterpart: Counterpart) -> Result<(), TlsError> {
    let index = ADMITTED.as_ref().map_err(|error| ssl_error("tls")(error.clone()))?;
    builder.set_ex_data(*index, counterpart);
    Ok(())
}

/// What is judged of a connection, and when next.
pub(crate) struct Judged {
    counterpart: Counterpart,
    leaf: X509,
    /// What follows it on its path, the anchor last.
    chain: Vec<X509>,
    due: Pin<Box<Sleep>>,
}

impl Judged {
    /// None where the context names nobody, or the other end showed nothing.
    pub(crate) fn of(ssl: &SslRef) -> Option<Self> {
        let counterpart = ssl.ssl_context().ex_data(*ADMITTED.as_ref().ok()?)?.clone();
        let mut path = ssl.verified_chain()?.iter().map(ToOwned::to_owned);
        let leaf = path.next()?;
        Some(Self { counterpart, leaf, chain: path.collect(), due: Box::pin(tokio::time::sleep(EVERY)) })
    }

    /// Resolves when the other end is admitted no longer.
    pub(crate) fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<TlsError> {
        loop {
            ready!(self.due.as_mut().poll(cx));
            if let Err(error) = self.verdict() {
                return Poll::Ready(error);
            }
            self.due.as_mut().reset(Instant::now() + EVERY);
        }
    }

    fn verdict(&self) -> Result<(), TlsError> {
        let over = |certificate: &X509| unix(certificate.not_after()).is_none_or(|end| end <= now());
        if std::iter::once(&self.leaf).chain(&self.chain).any(over) {
            return Err(TlsError::Untrusted("certificate has expired".into()));
        }
        self.counterpart.verdict(&self.leaf, &self.chain)
    }
}
