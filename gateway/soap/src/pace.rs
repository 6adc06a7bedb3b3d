//! The lowest rate at which a message comes. Without one, whoever sends a byte now and then keeps us, and all that hangs on
//! the exchange, for as long as it likes.

use std::time::Duration;

use bytes::Bytes;
use http_body::Body;
use http_body_util::BodyExt;
use tokio::time::Instant;

use crate::{BoxError, SoapError};

/// So many bytes come while they are waited for so long, or the message counts as stopped.
const LEAST: usize = 64 << 10;

/// How a message comes. Time in which nobody waits for it does not count.
#[derive(Debug)]
pub struct Pace {
    within: Duration,
    /// What came, and how long it was waited for, since the last `LEAST` bytes.
    came: usize,
    waited: Duration,
}

impl Pace {
    /// The longest time that 64 KiB are waited for.
    pub fn new(within: Duration) -> Self {
        Self { within, came: 0, waited: Duration::ZERO }
    }

    /// What comes next, whose length in bytes `length` tells; `None` when it comes too slowly.
    pub async fn next<T>(&mut self, coming: impl Future<Output = T>, length: impl Fn(&T) -> usize) -> Option<T> {
        let began = Instant::now();
        let next = tokio::time::timeout(self.within.saturating_sub(self.waited), coming).await.ok()?;
        self.waited += began.elapsed();
        self.came = self.came.saturating_add(length(&next));
        if self.came >= LEAST {
            (self.came, self.waited) = (0, Duration::ZERO);
        }
        Some(next)
    }

    /// The next bytes of a body; `None` at its end.
    ///
    /// # Errors
    /// [`SoapError::Timeout`] when it comes too slowly, [`SoapError::Connection`] when it breaks off.
    pub async fn data<B>(&mut self, body: &mut B) -> Result<Option<Bytes>, SoapError>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        let data = async {
            loop {
                match body.frame().await {
                    None => return Ok(None),
                    Some(Err(_)) => return Err(SoapError::Connection),
                    // Trailers mean nothing here.
                    Some(Ok(frame)) => {
                        if let Ok(data) = frame.into_data() {
                            return Ok(Some(data));
                        }
                    }
                }
            }
        };
        let length =
            |read: &Result<Option<Bytes>, _>| read.as_ref().ok().and_then(Option::as_ref).map_or(0, Bytes::len);
        self.next(data, length).await.unwrap_or(Err(SoapError::Timeout))
    }
}

#[cfg(test)]
mod tests {
    use http_body::Frame;
    use http_body_util::StreamBody;
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Reads frames of these lengths, each after its pause in seconds; what was read, and whether the end was.
    async fn read(frames: Vec<(u64, usize)>) -> (usize, bool) {
        let body = async_stream::stream! {
            for (pause, length) in frames {
                tokio::time::sleep(SECOND * u32::try_from(pause).expect("short")).await;
                yield Ok::<_, BoxError>(Frame::data(Bytes::from(vec![7; length])));
            }
        };
        let (mut body, mut pace, mut came) = (StreamBody::new(Box::pin(body)), Pace::new(SECOND * 30), 0);
        loop {
            match pace.data(&mut body).await {
                Ok(Some(data)) => came += data.len(),
                Ok(None) => return (came, true),
                Err(error) => {
                    assert!(matches!(error, SoapError::Timeout));
                    return (came, false);
                }
            }
        }
    }

    /// What the rule says, second by second.
    fn expected(frames: &[(u64, usize)]) -> (usize, bool) {
        let (mut whole, mut came, mut waited) = (0, 0, 0);
        for (pause, length) in frames {
            waited += pause;
            if waited > 30 {
                return (whole, false);
            }
            whole += length;
            came += length;
            if came >= LEAST {
                (came, waited) = (0, 0);
            }
        }
        (whole, true)
    }

    proptest! {
        /// SE-04's property, reading: a body ends as soon as less than 64 KiB came in 30 s of waiting for it, however its
        /// bytes are spread, and not before.
        #[test]
        fn se_04_a_body_has_a_lowest_rate(
            frames in prop::collection::vec((0..14u64, prop_oneof![Just(1), 1..40_000usize]), 0..40),
        ) {
            // Exactly at the limit either may come first.
            let sums = |(mut waited, mut came): (u64, usize)| frames.iter().any(|(pause, length)| {
                waited += pause;
                came += length;
                let at = waited == 30;
                if came >= LEAST { (came, waited) = (0, 0); }
                at
            });
            prop_assume!(!sums((0, 0)));
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
            let read = runtime.expect("a runtime").block_on(read(frames.clone()));
            prop_assert_eq!(read, expected(&frames));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn se_04_a_trickle_ends_and_time_of_our_own_does_not_count() {
        assert_eq!(read(vec![(7, 1); 1000]).await, (4, false));
        assert_eq!(read(vec![(20, LEAST); 50]).await, (50 * LEAST, true));
        let mut body = http_body_util::Full::new(Bytes::from_static(b"all"));
        let mut pace = Pace::new(SECOND);
        tokio::time::sleep(SECOND * 60).await;
        assert!(pace.data(&mut body).await.is_ok_and(|data| data.is_some()));
    }
}
