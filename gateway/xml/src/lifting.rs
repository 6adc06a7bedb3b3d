//! Reading a long list without holding it: elements of one name are handed out as they close and are not in the tree.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use quick_xml::NsReader;
use quick_xml::events::Event;
use tokio::io::{AsyncBufRead, AsyncRead, ReadBuf};

use crate::XmlError;
use crate::budget::Charge;
use crate::builder::Builder;
use crate::reader::{Limits, Progress, Sink, is_xml_char, unread};
use crate::tree::{Attribute, Element, Name};

/// Why a document that comes in pieces was not read.
#[derive(Debug, thiserror::Error)]
pub enum LiftError {
    /// The document.
    #[error(transparent)]
    Xml(#[from] XmlError),
    /// Its source.
    #[error("source failed")]
    Source(io::Error),
}

impl Element {
    /// Reads a document as it comes, within the limits; `text_bytes` bounds one tag too. Each element called `lifted`
    /// (namespace, local name) goes to `take` when it closes; the tree that is returned lacks them. What is held takes from
    /// the budget of `charge`.
    ///
    /// # Errors
    /// As [`crate::scan`]; the source's failure.
    pub async fn parse_lifting<R>(
        source: R,
        limits: &Limits,
        lifted: (&str, &str),
        take: &mut (dyn FnMut(Self) + Send),
        charge: &mut Charge,
    ) -> Result<Self, LiftError>
    where
        R: AsyncBufRead + Unpin,
    {
        let metered =
            Metered { source, left: limits.bytes.saturating_add(1), event: 0, event_bytes: limits.text_bytes };
        let mut reader = NsReader::from_reader(metered);
        reader.config_mut().check_end_names = true;
        let mut lift = Lift { builder: Builder::new(limits.held.most(0)), lifted, take };
        let mut progress = Progress::default();
        let mut buffer = Vec::new();
        loop {
            buffer.clear();
            reader.get_mut().event = 0;
            let event = reader.read_event_into_async(&mut buffer).await.map_err(failure)?;
            if matches!(event, Event::Eof) {
                break;
            }
            if !event.chars().all(is_xml_char) {
                return Err(XmlError::Encoding.into());
            }
            progress.event(event, reader.resolver(), limits, &mut lift)?;
            progress.read = limits.bytes.saturating_sub(reader.get_ref().left);
            lift.builder.most = limits.held.most(progress.read);
            progress.budget(limits, &lift, Some(charge))?;
        }
        progress.end()?;
        Ok(lift.builder.root.ok_or(XmlError::Malformed)?)
    }
}

fn failure(error: quick_xml::Error) -> LiftError {
    let quick_xml::Error::Io(error) = error else {
        let encoding = matches!(error, quick_xml::Error::Encoding(_));
        return if encoding { XmlError::Encoding } else { unread(&error) }.into();
    };
    match error.get_ref().and_then(|inner| inner.downcast_ref::<XmlError>()) {
        Some(own) => LiftError::Xml(*own),
        None => {
            let kind = error.kind();
            LiftError::Source(std::sync::Arc::try_unwrap(error).unwrap_or_else(|_| kind.into()))
        }
    }
}

struct Lift<'a> {
    builder: Builder,
    lifted: (&'a str, &'a str),
    take: &'a mut (dyn FnMut(Element) + Send),
}

impl Sink for Lift<'_> {
    fn open(&mut self, name: Name, attributes: Vec<Attribute>) {
        self.builder.open(name, attributes);
    }

    fn text(&mut self, text: &str) {
        self.builder.text(text);
    }

    fn close(&mut self) {
        let (namespace, local) = self.lifted;
        match self.builder.innermost().is_some_and(|innermost| innermost.is(namespace, local)) {
            true => self.builder.take().into_iter().for_each(&mut *self.take),
            false => self.builder.close(),
        }
    }

    fn held(&self) -> usize {
        self.builder.held()
    }

    const BUILDS: bool = true;
}

/// Counts what is read, so that neither the document nor one event of it grows without end.
struct Metered<R> {
    source: R,
    /// Bytes that may still come.
    left: usize,
    /// Bytes of the present event.
    event: usize,
    event_bytes: usize,
}

impl<R: AsyncBufRead + Unpin> AsyncBufRead for Metered<R> {
    fn poll_fill_buf(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        if this.left == 0 || this.event > this.event_bytes {
            return Poll::Ready(Err(io::Error::other(XmlError::TooLarge)));
        }
        Pin::new(&mut this.source).poll_fill_buf(context)
    }

    fn consume(mut self: Pin<&mut Self>, amount: usize) {
        self.left = self.left.saturating_sub(amount);
        self.event += amount;
        Pin::new(&mut self.source).consume(amount);
    }
}

impl<R: AsyncBufRead + Unpin> AsyncRead for Metered<R> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let ready = std::task::ready!(self.as_mut().poll_fill_buf(context))?;
        let amount = ready.len().min(out.remaining());
        out.put_slice(&ready[..amount]);
        self.consume(amount);
        Poll::Ready(Ok(()))
    }
}
