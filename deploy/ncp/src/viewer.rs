//! What a viewer asks under the DICOMweb root of a study: searches, a series, an instance, metadata.

use std::collections::{BTreeMap, BTreeSet};

use dicom_dictionary_std::tags;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::Error;
use crate::check::ensure;
use crate::clinician::{Client, Line, Piece};

const SERIES: &str = "0020000E";
const INSTANCE: &str = "00080018";

/// Every study: what is searched is what is retrieved, and metadata are those of the archive's files.
pub(crate) async fn walk(client: &Client, lines: &[Line], archive: &BTreeMap<String, String>) -> Result<Value, Error> {
    let (mut series_seen, mut elements) = (0, 0);
    for line in lines {
        let (Some(root), Some(study)) = (&line.dicomweb, &line.study) else { continue };
        let base = format!("{root}/studies");
        let studies = search(client, &base).await?;
        let [found] = studies.as_slice() else { return Err(format!("{} studies", studies.len()).into()) };
        ensure(text(found, "0020000D") == Some(study), "another study was found")?;
        ensure(search(client, &format!("{base}?StudyInstanceUID=1.2.3")).await?.is_empty(), "a study of nobody")?;
        let series = search(client, &format!("{base}/{study}/series")).await?;
        let counted: u64 = series.iter().filter_map(|s| number(s, "00201209")).sum();
        ensure(number(found, "00201208") == Some(counted), "study and series count differently")?;
        let all = search(client, &format!("{base}/{study}/instances")).await?;
        ensure(all.len() as u64 == counted, "not every instance is listed")?;

        let one = text(&series[0], SERIES).ok_or("a series without UID")?;
        ensure(search(client, &format!("{base}/{study}/series?{SERIES}={one}")).await?.len() == 1, "series by UID")?;
        let listed = search(client, &format!("{base}/{study}/series/{one}/instances")).await?;
        let listed: BTreeSet<&str> = listed.iter().filter_map(|i| text(i, INSTANCE)).collect();
        let mut came = 0;
        let each = |piece: Piece<'_>| {
            came += usize::from(matches!(piece, Piece::End));
            Ok(())
        };
        client.study(root, &format!("{study}/series/{one}"), each).await?;
        ensure(came == listed.len(), format!("{came} of {} instances of a series", listed.len()))?;

        let instance = *listed.first().ok_or("an empty series")?;
        let place = format!("{base}/{study}/series/{one}/instances/{instance}");
        let file = client.binary_as(&place, "application/dicom").await?.map_err(|s| format!("an instance: {s}"))?;
        let digest = hex::encode(openssl::sha::sha256(&file));
        ensure(archive.get(instance) == Some(&digest), "an instance differs from the archive's")?;

        let metadata = search(client, &format!("{base}/{study}/series/{one}/metadata")).await?;
        let told: BTreeSet<&str> = metadata.iter().filter_map(|e| text(e, INSTANCE)).collect();
        ensure(told == listed, "metadata are not those of the series")?;
        let alone = search(client, &format!("{place}/metadata")).await?;
        ensure(metadata.iter().find(|e| text(e, INSTANCE) == Some(instance)) == alone.first(), "metadata differ")?;
        like_file(&alone[0], &file)?;
        series_seen += series.len();
        elements += metadata.len();

        for (url, status) in [
            (format!("{base}/{study}/series/1.2.3"), StatusCode::NOT_FOUND),
            (format!("{base}/1.2.3/series"), StatusCode::NOT_FOUND),
            (format!("{place}/frames/1"), StatusCode::NOT_FOUND),
            (format!("{base}?limit=x"), StatusCode::BAD_REQUEST),
            (format!("{base}?Surprise=1"), StatusCode::BAD_REQUEST),
        ] {
            let got = client.json(Method::GET, &url, None).await?.0;
            ensure(got == status, format!("{got} instead of {status}"))?;
        }
        let other = client.binary_as(&base, "text/html").await?;
        ensure(other == Err(StatusCode::NOT_ACCEPTABLE), "HTML was answered")?;
    }
    ensure(series_seen > 0, "no series")?;
    Ok(json!({ "series": series_seen, "metadata": elements }))
}

async fn search(client: &Client, url: &str) -> Result<Vec<Value>, Error> {
    match client.json(Method::GET, url, None).await? {
        (StatusCode::OK, Value::Array(found)) => Ok(found),
        (status, _) => Err(format!("the gateway answered {status}").into()),
    }
}

fn value<'a>(record: &'a Value, tag: &str) -> Option<&'a Value> {
    record.get(tag)?.get("Value")?.get(0)
}

fn text<'a>(record: &'a Value, tag: &str) -> Option<&'a str> {
    value(record, tag)?.as_str()
}

fn number(record: &Value, tag: &str) -> Option<u64> {
    value(record, tag)?.as_u64()
}

/// Every attribute of the file that a viewer needs stands in its metadata.
fn like_file(told: &Value, file: &[u8]) -> Result<(), Error> {
    let object = dicom_object::from_reader(&file[128..])?;
    let said = |tag| object.element_opt(tag).ok().flatten().and_then(|e| e.to_str().ok()).map(|s| s.trim().to_owned());
    for tag in [tags::ROWS, tags::COLUMNS, tags::BITS_ALLOCATED, tags::SAMPLES_PER_PIXEL] {
        let key = format!("{:04X}{:04X}", tag.0, tag.1);
        ensure(said(tag) == number(told, &key).map(|n| n.to_string()), format!("{key} differs"))?;
    }
    for tag in [tags::SOP_CLASS_UID, tags::PHOTOMETRIC_INTERPRETATION, tags::FRAME_OF_REFERENCE_UID] {
        let key = format!("{:04X}{:04X}", tag.0, tag.1);
        let has = said(tag).map(|s| s.trim_end_matches('\0').to_owned());
        ensure(has.as_deref() == text(told, &key), format!("{key} differs"))?;
    }
    let syntax = object.meta().transfer_syntax().trim_end_matches('\0');
    ensure(text(told, "00083002") == Some(syntax), "the stored syntax is not told")?;
    ensure(told.get("7FE00010").is_none(), "pixels in metadata")
}
