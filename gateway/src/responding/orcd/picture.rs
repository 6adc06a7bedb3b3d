//! The key image of a study: what a key object note of it marks, else the middle of its first series of images.
//!
//! Pixels are decoded in a process of its own (see [`super::draw`]) that is confined: what an archive holds is not trusted to
//! be harmless.

use std::process::Stdio;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use ncp_ihe::{
    DocumentRequest, ImagingRequest, Manifest, ManifestInstance, ManifestSeries, RetrieveRequest, SeriesRequest,
    StudyRequest, Uid,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStdout, Command};

use super::confined;
use super::draw::{self, NotDrawn};
use crate::admission::{AGAIN, Capacity};
use crate::audit_scope::Trail;
use crate::identity::TransactionName;
use crate::national::{Missing, NationalError};
use crate::outcome::GatewayError;
use crate::policy::{Authorised, LookUp};
use crate::responding::pipeline::Exchange;
use crate::translate::collect;
use crate::whole::{Gathering, Holder, NotHeld};

const KEY_OBJECTS: &str = "1.2.840.10008.5.1.4.1.1.88.59";
/// SOP classes without pixels: structured documents, presentation states, waveforms, raw data, encapsulated documents.
const WITHOUT_PIXELS: [&str; 5] = [
    "1.2.840.10008.5.1.4.1.1.88.",
    "1.2.840.10008.5.1.4.1.1.11.",
    "1.2.840.10008.5.1.4.1.1.9.",
    "1.2.840.10008.5.1.4.1.1.66",
    "1.2.840.10008.5.1.4.1.1.104.",
];
/// Bytes of a key object note.
const NOTE_BYTES: usize = 1 << 20;
/// Pictures drawn at once.
const TURNS: usize = 2;
/// Turns to draw, one for each country, so that a country whose pictures take long leaves one to the others. Who gets none
/// within a short time is told that we are busy.
static DRAWING: LazyLock<Capacity> = LazyLock::new(|| Capacity::new(TURNS, 1, TURNS));
/// Bytes of a picture that are read at once.
const PIECE: usize = 64 << 10;
const TIME: Duration = Duration::from_secs(20);

/// The PNG of a study's key image.
pub(super) async fn of_manifest(
    exchange: &Exchange,
    asked: &Authorised<LookUp<RetrieveRequest>>,
    manifest: &[u8],
    trail: &mut Trail,
) -> Result<Bytes, GatewayError> {
    let (manifest, _) = Manifest::read(manifest).map_err(|_| NationalError::Mismatch("manifest is not readable"))?;
    if !manifest.warnings.is_empty() {
        tracing::warn!(ncp.reference = %exchange.reference, odd = manifest.odd(), "manifest is odd");
    }
    let fetch = Fetch { exchange, asked, manifest: &manifest };
    let (series, instance) = match fetch.marked(trail).await? {
        Some(marked) => marked,
        None => middle(&manifest).ok_or(NationalError::UnknownDocument)?,
    };
    let object = fetch.instance(series, instance, exchange.app.config.limits.document_bytes, trail).await?;
    drawn(exchange, &object, &asked.identity().holder()).await
}

/// The middle of the first series that has images.
fn middle(manifest: &Manifest) -> Option<(&ManifestSeries, &ManifestInstance)> {
    manifest.series.iter().find_map(|series| {
        let images: Vec<&ManifestInstance> = series.instances.iter().filter(|i| has_pixels(i)).collect();
        Some((series, *images.get(images.len() / 2)?))
    })
}

fn has_pixels(instance: &ManifestInstance) -> bool {
    !WITHOUT_PIXELS.iter().any(|without| instance.sop_class.as_str().starts_with(without))
}

/// Instances of one study, each under a decision of its own.
struct Fetch<'a> {
    exchange: &'a Exchange,
    asked: &'a Authorised<LookUp<RetrieveRequest>>,
    manifest: &'a Manifest,
}

impl<'a> Fetch<'a> {
    /// The first image that a key object note of the study marks, as the manifest says it or else the note.
    async fn marked(
        &self,
        trail: &mut Trail,
    ) -> Result<Option<(&'a ManifestSeries, &'a ManifestInstance)>, GatewayError> {
        let all = || self.manifest.series.iter().flat_map(|s| s.instances.iter().map(move |i| (s, i)));
        if let Some(marked) = all().find(|(_, i)| has_pixels(i) && !i.marked_by.is_empty()) {
            return Ok(Some(marked));
        }
        let Some((series, note)) = all().find(|(_, i)| i.sop_class.as_str() == KEY_OBJECTS) else { return Ok(None) };
        let note = match self.instance(series, note, NOTE_BYTES, trail).await {
            Ok(note) => note,
            // A note that is gone marks nothing.
            Err(GatewayError::National(NationalError::UnknownDocument)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let Ok(note) = Manifest::read_kos(&note) else { return Ok(None) };
        let marks = |image: &Uid| note.series.iter().flat_map(|s| &s.instances).any(|i| i.sop_instance == *image);
        Ok(all().find(|(_, i)| has_pixels(i) && marks(&i.sop_instance)))
    }

    /// One instance, whole.
    async fn instance(
        &self,
        series: &ManifestSeries,
        instance: &ManifestInstance,
        most: usize,
        trail: &mut Trail,
    ) -> Result<Bytes, GatewayError> {
        let Some(national) = &self.exchange.app.national else {
            return Err(NationalError::UnknownRepository.into());
        };
        let location = series.location.clone().ok_or(NationalError::UnknownRepository)?;
        let request = DocumentRequest {
            home: Some(self.exchange.app.config.gateway.home_community_id.clone()),
            repository: location,
            document: instance.sop_instance.to_string(),
        };
        let asked = request.clone();
        let series = SeriesRequest { series: series.series.clone(), instances: vec![request] };
        let study = StudyRequest { study: self.manifest.study.clone(), series: vec![series] };
        let syntaxes = draw::TRANSFER_SYNTAXES.iter().filter_map(|s| Uid::parse(s).ok()).collect();
        let look_up = self.asked.derive(ImagingRequest { studies: vec![study], transfer_syntaxes: syntaxes });
        let (mut found, documents) = tokio::join!(national.locate(&look_up), national.describing(&look_up));
        if found.unreached.iter().flat_map(|(_, missing)| missing).any(|(_, why)| matches!(why, Missing::Busy(_))) {
            return Err(NationalError::Busy(None).into());
        }
        let study = found.studies.pop().ok_or(NationalError::UnknownDocument)?;
        if study.instances.is_empty() {
            return Err(not_sent(study.missing.first()).into());
        }
        // Pixels leave under the decision for images, whatever they are wrapped in.
        let policy = &self.exchange.snapshot.policy;
        let released = match policy.release(&look_up, TransactionName::Rad75, study, &documents).await {
            Ok(released) => released,
            Err(refusal) => {
                trail.withheld(&refusal);
                trail.recorder().failed_instance(self.manifest.study.as_str(), &asked);
                return Err(NationalError::UnknownDocument.into());
            }
        };
        let mut opened = national.retrieve_instances(released).await.map_err(|error| match error {
            NationalError::TransferSyntax => NationalError::NotShown(NotDrawn::TransferSyntax.text()),
            error => error,
        })?;
        let instance = opened.instances.next().await.ok_or_else(|| not_sent(opened.missing.first()))??;
        Ok(collect(instance.content, most, &self.asked.identity().holder()).await?)
    }
}

/// What is answered of an image that its source does not send.
fn not_sent(missing: Option<&(DocumentRequest, Missing)>) -> NationalError {
    match missing {
        Some((_, Missing::TransferSyntax)) => NationalError::NotShown(NotDrawn::TransferSyntax.text()),
        _ => NationalError::UnknownDocument,
    }
}

/// Has the image drawn.
async fn drawn(exchange: &Exchange, object: &Bytes, holder: &Holder) -> Result<Bytes, GatewayError> {
    let not_drawn = |reason: NotDrawn| {
        match reason {
            NotDrawn::Unconfined(why) => {
                tracing::error!(%why, "no key image is drawn: the drawing process is not confined")
            }
            reason => tracing::warn!(reason = reason.text(), "a key image could not be drawn"),
        }
        NationalError::NotShown(reason.text())
    };
    let _turn = DRAWING.enter(&exchange.connection).await.ok_or(NationalError::Busy(Some(AGAIN)))?;
    // The program that runs, even if its file was replaced since.
    let mut child = Command::new("/proc/self/exe")
        .arg(draw::COMMAND)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|_| GatewayError::Internal("the drawing process does not start"))?;
    let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(GatewayError::Internal("the drawing process has no pipes"));
    };
    let mut png = holder.gather(draw::MOST_PNG);
    let work = async {
        let send = async {
            // A child that refuses early closes its end; its exit status says so.
            let _ = input.write_all(object).await;
            drop(input);
            Ok(())
        };
        tokio::try_join!(send, gathered(output, &mut png))?;
        child.wait().await.map_err(|_| Unread::Pipe)
    };
    let status = tokio::time::timeout(TIME, work).await.map_err(|_| not_drawn(NotDrawn::TooLarge))?;
    let status = status.map_err(|error| match error {
        Unread::Pipe => not_drawn(NotDrawn::Process),
        Unread::NotHeld(NotHeld::TooLarge) => not_drawn(NotDrawn::TooLarge),
        Unread::NotHeld(NotHeld::Busy) => NotHeld::Busy.into(),
    })?;
    if confined::overstepped(status) {
        tracing::error!("a drawing process was ended: it asked the kernel for more than a decoder needs");
    }
    match status.success() {
        true => Ok(png.end()),
        false => Err(not_drawn(NotDrawn::of_exit_code(status.code())).into()),
    }
}

/// Why a picture was not read.
enum Unread {
    Pipe,
    NotHeld(NotHeld),
}

impl From<NotHeld> for Unread {
    fn from(why: NotHeld) -> Self {
        Self::NotHeld(why)
    }
}

/// Reads what the drawing process writes.
async fn gathered(mut output: ChildStdout, png: &mut Gathering) -> Result<(), Unread> {
    let mut piece = vec![0; PIECE];
    loop {
        match output.read(&mut piece).await.map_err(|_| Unread::Pipe)? {
            0 => return Ok(()),
            read => png.push(&piece[..read])?,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::admission::Authenticated;

    struct Of(&'static str);

    impl Authenticated for Of {
        fn subject(&self) -> String {
            self.0.into()
        }
        fn address(&self) -> IpAddr {
            Ipv4Addr::LOCALHOST.into()
        }
    }

    /// SE-11: a country whose pictures take long leaves a turn to others, and nobody waits without end.
    #[tokio::test(start_paused = true)]
    async fn se_11_a_country_leaves_a_turn_to_draw() {
        let first = DRAWING.enter(&Of("FI")).await;
        assert!(first.is_some() && DRAWING.enter(&Of("FI")).await.is_none(), "its second waits, and is told busy");
        let other = DRAWING.enter(&Of("SE")).await;
        assert!(other.is_some() && DRAWING.enter(&Of("DK")).await.is_none());
        drop(first);
        assert!(DRAWING.enter(&Of("DK")).await.is_some());
    }
}
