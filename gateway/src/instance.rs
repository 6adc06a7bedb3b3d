//! Whose instance is it? Read from its header before a byte of it goes on, in both roles.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use ncp_ihe::{DicomHeader, PatientClaim, Scanned, StructureScan, Uid, Unsound};
use ncp_soap::{Parts, SoapError};

use crate::patient_key::{PatientKey, Person};

/// Header bytes tried first, and at most.
const FIRST: usize = 8 << 10;
const MOST: usize = 1 << 20;

/// What every instance of a study must agree with.
#[derive(Clone)]
pub struct Expected {
    /// Study Instance UID.
    pub study: Uid,
    /// Patient IDs under which its objects may name the person; `None` where the request tells no more than study and
    /// instance (RAD-69).
    pub patient_ids: Option<Vec<PatientKey>>,
    /// What else is known of the person.
    pub person: Person,
    /// Transfer syntaxes that are taken; empty: any.
    pub transfer_syntaxes: Vec<String>,
}

/// Why an instance is withheld. Without values, since this reaches logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foreign {
    /// Not readable.
    NotDicom,
    /// SOP Instance UID.
    OtherInstance,
    /// Study Instance UID.
    OtherStudy,
    /// Patient ID, its issuer, or birth date.
    OtherPatient,
    /// Transfer syntax.
    OtherSyntax,
    /// Its structure: lengths, depth, what it inflates to, its end.
    Unsound,
    /// Another size than its source named.
    OtherSize,
}

impl std::fmt::Display for Foreign {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(self.rule())
    }
}

impl std::error::Error for Foreign {}

impl Foreign {
    /// The rule that was broken.
    pub fn rule(self) -> &'static str {
        match self {
            Self::NotDicom => "instance is not readable as DICOM",
            Self::OtherInstance => "instance is another than its part says",
            Self::OtherStudy => "instance is of another study",
            Self::OtherPatient => "instance names another patient than its study",
            Self::OtherSyntax => "instance is in none of the requested transfer syntaxes",
            Self::Unsound => "instance is not whole and sound as DICOM",
            Self::OtherSize => "instance has another size than its source named",
        }
    }
}

/// Bytes of one object as they come.
pub trait Chunks {
    /// What may break.
    type Error;
    /// The next bytes; `None` at the end.
    fn chunk(&mut self) -> impl Future<Output = Result<Option<Bytes>, Self::Error>> + Send;
}

impl<B> Chunks for Parts<B>
where
    B: http_body::Body<Data = Bytes> + Unpin + Send,
    B::Error: Into<ncp_soap::BoxError>,
{
    type Error = SoapError;
    async fn chunk(&mut self) -> Result<Option<Bytes>, SoapError> {
        Parts::chunk(self).await
    }
}

/// Takes as much of an object as its header needs. The bytes are returned, to be sent on first, disarmed.
pub async fn header<C: Chunks>(
    object: &mut C,
    sop_instance: &str,
    expected: &Expected,
) -> Result<(Bytes, Result<(), Foreign>), C::Error> {
    let mut held = BytesMut::new();
    let mut enough = FIRST;
    loop {
        let mut ended = false;
        while held.len() < enough {
            match object.chunk().await? {
                Some(chunk) => held.extend_from_slice(&chunk),
                None => {
                    ended = true;
                    break;
                }
            }
        }
        match DicomHeader::scan(&held, ended) {
            Scanned::Header(header) => {
                disarm(&mut held);
                return Ok((held.freeze(), check(&header, sop_instance, expected)));
            }
            Scanned::More if !ended && held.len() < MOST => enough = (held.len() * 2).min(MOST),
            Scanned::More | Scanned::NotDicom(_) => return Ok((held.freeze(), Err(Foreign::NotDicom))),
        }
    }
}

/// Bytes at the end of an object that wait until the whole is known to be sound; a smaller object is known before its first.
const HELD_BACK: usize = 64 << 10;

/// Looks at the structure of an object while it passes: lengths within it, depth, what it inflates to, the size that was named
/// for it. What is wrong ends the stream with an error before the object's last bytes went on (T-DCM-1 to T-DCM-8).
pub fn sound<S, E>(
    content: S,
    size: Option<u64>,
    fail: impl Fn(Foreign) -> E + Send + Unpin + 'static,
) -> impl Stream<Item = Result<Bytes, E>> + Send
where
    S: Stream<Item = Result<Bytes, E>> + Send + Unpin + 'static,
    E: Send + 'static,
{
    let scan = Some(StructureScan::new(size));
    Sound { content, scan, size, length: 0, waiting: VecDeque::new(), held: 0, fail }
}

/// Every chunk of an image passes here, so that it is a stream of its own instead of a generated one.
struct Sound<S, F> {
    content: S,
    /// `None` when the content has ended.
    scan: Option<StructureScan>,
    /// What was named.
    size: Option<u64>,
    /// What came.
    length: u64,
    /// What did not go on yet, and its length.
    waiting: VecDeque<Bytes>,
    held: usize,
    fail: F,
}

impl<S, F> Sound<S, F> {
    /// The first chunk that need not wait.
    fn free(&mut self) -> Option<Bytes> {
        let behind = self.held - self.waiting.front()?.len();
        if self.scan.is_some() && behind < HELD_BACK {
            return None;
        }
        self.held = behind;
        self.waiting.pop_front()
    }

    fn take(&mut self, chunk: Bytes) -> Result<(), Foreign> {
        self.length += chunk.len() as u64;
        if self.size.is_some_and(|size| size < self.length) {
            return Err(Foreign::OtherSize);
        }
        if let Some(scan) = &mut self.scan {
            scan.push(&chunk).map_err(said)?;
        }
        self.held += chunk.len();
        self.waiting.push_back(chunk);
        Ok(())
    }

    fn end(&mut self) -> Result<(), Foreign> {
        if self.size.is_some_and(|size| size != self.length) {
            return Err(Foreign::OtherSize);
        }
        self.scan.take().map_or(Ok(()), |mut scan| scan.finish().map_err(said))
    }
}

impl<S, E, F> Stream for Sound<S, F>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    F: Fn(Foreign) -> E + Unpin,
{
    type Item = Result<Bytes, E>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(chunk) = this.free() {
                return Poll::Ready(Some(Ok(chunk)));
            }
            if this.scan.is_none() {
                return Poll::Ready(None);
            }
            let looked_at = match ready!(this.content.poll_next_unpin(context)) {
                Some(Ok(chunk)) => this.take(chunk).map_err(&this.fail),
                Some(Err(error)) => Err(error),
                None => this.end().map_err(&this.fail),
            };
            if let Err(error) = looked_at {
                (this.scan, this.held) = (None, 0);
                this.waiting.clear();
                return Poll::Ready(Some(Err(error)));
            }
        }
    }
}

/// The operator reads what is wrong; whoever asked reads that something is.
fn said(unsound: Unsound) -> Foreign {
    tracing::warn!(reason = %unsound, "an instance is not sound");
    Foreign::Unsound
}

/// The same for an instance that is there already.
///
/// # Errors
/// Why it is withheld.
pub fn whole(bytes: Bytes, sop_instance: &str, expected: &Expected) -> Result<Bytes, Foreign> {
    match DicomHeader::scan(&bytes, true) {
        Scanned::Header(header) => check(&header, sop_instance, expected)?,
        Scanned::More | Scanned::NotDicom(_) => return Err(Foreign::NotDicom),
    }
    let mut bytes = BytesMut::from(bytes);
    disarm(&mut bytes);
    Ok(bytes.freeze())
}

/// The 128 bytes before `DICM` are no part of the data set (PS3.10 7.1) and may hold a program or script that a receiver
/// runs (T-DCM-12): whatever stands there goes on as zeros. Nothing else is changed.
pub fn disarm(beginning: &mut [u8]) {
    if let Some((preamble, rest)) = beginning.split_at_mut_checked(128)
        && rest.starts_with(b"DICM")
    {
        preamble.fill(0);
    }
}

fn check(object: &DicomHeader, sop_instance: &str, expected: &Expected) -> Result<(), Foreign> {
    if object.sop_instance != sop_instance {
        return Err(Foreign::OtherInstance);
    }
    if object.study != expected.study.as_str() {
        return Err(Foreign::OtherStudy);
    }
    if expected.patient_ids.as_ref().is_some_and(|ids| !names(&object.patient, ids, &expected.person)) {
        return Err(Foreign::OtherPatient);
    }
    let syntaxes = &expected.transfer_syntaxes;
    if !syntaxes.is_empty() && !syntaxes.contains(&object.transfer_syntax) {
        return Err(Foreign::OtherSyntax);
    }
    Ok(())
}

/// Whether the object names the patient; one without a Patient ID does so by the birth date.
fn names(claim: &PatientClaim, keys: &[PatientKey], person: &Person) -> bool {
    let known = match claim.id.is_empty() {
        true => person.birth_date.as_ref() == Some(&claim.birth_date),
        false => keys.iter().any(|key| key.accepts(claim)),
    };
    known && person.contradicted(claim).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(patient: &str, birth: &str) -> DicomHeader {
        DicomHeader {
            sop_instance: "2.999.3".into(),
            study: "2.999.1".into(),
            patient: PatientClaim { id: patient.into(), birth_date: birth.into(), ..PatientClaim::default() },
            transfer_syntax: "1.2.840.10008.1.2.1".into(),
            ..DicomHeader::default()
        }
    }

    /// T-DCM-9 to T-DCM-11.
    #[test]
    fn an_instance_must_be_of_its_study_and_patient() {
        let expected = Expected {
            study: Uid::parse("2.999.1").expect("a UID"),
            patient_ids: Some(["P1", "P2"].map(PatientKey::unissued).to_vec()),
            person: Person { birth_date: Some("19770530".into()), ..Person::default() },
            transfer_syntaxes: vec!["1.2.840.10008.1.2.1".into()],
        };
        let checked = |header: &DicomHeader| check(header, "2.999.3", &expected);
        assert_eq!(checked(&header("P2", "19770530")), Ok(()));
        assert_eq!(checked(&header("P1", "")), Ok(()));
        assert_eq!(checked(&header("", "19770530")), Ok(()));
        for (patient, birth) in [("P3", "19770530"), ("P1", "19770531"), ("", ""), ("", "19770531")] {
            assert_eq!(checked(&header(patient, birth)), Err(Foreign::OtherPatient), "T-DCM-9 {patient} {birth}");
        }
        let good = header("P1", "19770530");
        assert_eq!(check(&good, "2.999.4", &expected), Err(Foreign::OtherInstance), "T-DCM-10");
        let implicit = DicomHeader { transfer_syntax: "1.2.840.10008.1.2".into(), ..good.clone() };
        assert_eq!(checked(&implicit), Err(Foreign::OtherSyntax));
        let study = DicomHeader { study: "2.999.9".into(), ..good };
        assert_eq!(checked(&study), Err(Foreign::OtherStudy), "T-DCM-11");
    }
}
