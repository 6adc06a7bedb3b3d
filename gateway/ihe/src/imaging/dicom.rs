//! Reading and writing of DICOM attributes, and the codes that manifests use.

use dicom_core::{Tag, VR};
use dicom_dictionary_std::tags;

use super::written::Written;
use super::{IssuedId, IssuedName, Issuer};
use crate::dicom::Item;
use crate::{Coded, Oid, Uid};

/// SOP Class of a KOS.
pub(super) const KOS: &str = "1.2.840.10008.5.1.4.1.1.88.59";
/// Retrieve Location UID.
pub(super) const LOCATION: Tag = Tag(0x0040, 0xE011);
/// Display URI, MADO's final place of the viewer's address.
pub(super) const DISPLAY_URI: Tag = Tag(0x0040, 0xE012);
/// Private group of MADO's viewer address, and its creator.
pub(super) const MADO_PRIVATE: (u16, &str) = (0x000D, "IHE_MADO_PRIVATE");

/// Codes of TID 1600 and its kin: (meaning, codes read). MADO's temporary ones beside those of the mapping page.
pub(super) mod code {
    pub(in super::super) const IMAGE_LIBRARY: &[&str] = &["111028"];
    pub(in super::super) const GROUP: &[&str] = &["126200"];
    pub(in super::super) const MODALITY: &[&str] = &["121139"];
    pub(in super::super) const REGION: &[&str] = &["123014"];
    pub(in super::super) const LATERALITY: &[&str] = &["111027"];
    pub(in super::super) const PROCEDURE: &[&str] = &["121023"];
    pub(in super::super) const SERIES_UID: &[&str] = &["112002"];
    pub(in super::super) const SERIES_NUMBER: &[&str] = &["113607"];
    pub(in super::super) const SERIES_DESCRIPTION: &[&str] = &["131563", "MADOTEMP002"];
    pub(in super::super) const SERIES_DATE: &[&str] = &["131561", "MADOTEMP003"];
    pub(in super::super) const SERIES_TIME: &[&str] = &["131562", "MADOTEMP004"];
    pub(in super::super) const INSTANCES: &[&str] = &["131564", "MADOTEMP007"];
    pub(in super::super) const SERIES: &[&str] = &["131565", "MADOTEMP009"];
    pub(in super::super) const INSTANCE_NUMBER: &[&str] = &["113609"];
    pub(in super::super) const FRAMES: &[&str] = &["121140"];
    pub(in super::super) const KEY_TITLE: &[&str] = &["121144"];
    pub(in super::super) const KEY_DESCRIPTION: &[&str] = &["113012"];
}

/// Whether a code is the title of a manifest: XDS-I's, MADO's temporary one, and the one its converter writes.
///
/// (113000, DCM, "Of Interest") is a key object note's, though a real manifest carries it.
pub fn is_manifest_title(code: &str) -> bool {
    matches!(code, "113030" | "MADOTEMP001" | "ddd001")
}

pub(super) fn text(object: &Item<'_>, tag: Tag) -> Option<String> {
    object.text(key(tag))
}

pub(super) fn number(object: &Item<'_>, tag: Tag) -> Option<u32> {
    text(object, tag)?.parse().ok()
}

pub(super) fn uid(object: &Item<'_>, tag: Tag) -> Option<Uid> {
    text(object, tag).and_then(|v| Uid::parse(&v).ok())
}

pub(super) fn items<'o, 'a>(object: &'o Item<'a>, tag: Tag) -> &'o [Item<'a>] {
    object.items(key(tag))
}

/// A tag as one number.
pub(super) fn key(tag: Tag) -> u32 {
    u32::from(tag.0) << 16 | u32::from(tag.1)
}

/// The code in a code sequence's item; one with a meaning alone is text.
pub(super) fn coded(item: &Item<'_>) -> Option<Coded> {
    let code = [tags::CODE_VALUE, tags::LONG_CODE_VALUE, tags::URN_CODE_VALUE].into_iter().find_map(|t| text(item, t));
    let display = text(item, tags::CODE_MEANING);
    let system = text(item, tags::CODING_SCHEME_DESIGNATOR).unwrap_or_default();
    (code.is_some() || display.is_some()).then(|| Coded { code: code.unwrap_or_default(), system, display })
}

pub(super) fn first_code(object: &Item<'_>, tag: Tag) -> Option<Coded> {
    items(object, tag).first().and_then(coded)
}

/// Code of a content item's concept name.
pub(super) fn concept(item: &Item<'_>) -> String {
    first_code(item, tags::CONCEPT_NAME_CODE_SEQUENCE).map(|c| c.code).unwrap_or_default()
}

/// Authority in an HL7v2 hierarchic designator sequence.
pub(super) fn issuer(object: &Item<'_>, tag: Tag) -> Option<Issuer> {
    let item = items(object, tag).first()?;
    Some(Issuer::parse(&text(item, tags::UNIVERSAL_ENTITY_ID)?))
}

/// Name of that authority.
pub(super) fn local_namespace(object: &Item<'_>, tag: Tag) -> Option<String> {
    text(items(object, tag).first()?, tags::LOCAL_NAMESPACE_ENTITY_ID)
}

/// Name of an organisation, or XON: name^^^^^authority^^^^id.
pub(super) fn institution(value: &str) -> IssuedName {
    let parts: Vec<&str> = value.split('^').collect();
    let name = parts.first().copied().unwrap_or_default().to_owned();
    let id = parts.get(9).filter(|id| !id.is_empty()).map(|id| {
        let authority = parts.get(5).and_then(|hd| hd.split('&').nth(1)).filter(|a| !a.is_empty());
        // XON.10 may be an OID by itself (ITI TF-3: 4.2.3.1.7).
        IssuedId { id: (*id).to_owned(), issuer: authority.map(Issuer::parse), label: None }
    });
    IssuedName { name, id }
}

/// XON as long as it fits into LO, else the name alone.
pub(super) fn xon(institution: &IssuedName) -> String {
    let plain: String = institution.name.replace(['^', '\\'], " ").chars().take(64).collect();
    let Some(id) = &institution.id else { return plain };
    let authority = match &id.issuer {
        Some(Issuer::Oid(oid)) => format!("&{oid}&ISO"),
        Some(Issuer::Uri(uri)) => format!("&{uri}&URI"),
        None => String::new(),
    };
    let full = format!("{plain}^^^^^{authority}^^^^{}", id.id);
    let fits = full.chars().count() <= 64 && !id.id.contains(['^', '\\', '&']) && !full.contains('\\');
    if fits { full } else { plain }
}

/// A hierarchic designator sequence.
pub(super) fn put_issuer(object: &mut Written, tag: Tag, issuer: Option<&Issuer>, label: Option<&str>) {
    if issuer.is_none() && label.is_none() {
        return;
    }
    let mut item = Written::default();
    item.put(tags::LOCAL_NAMESPACE_ENTITY_ID, VR::UT, label);
    let (id, kind) = match issuer {
        Some(Issuer::Oid(oid)) => (Some(oid.as_str()), Some("ISO")),
        Some(Issuer::Uri(uri)) => (Some(uri.as_str()), Some("URI")),
        None => (None, None),
    };
    item.put(tags::UNIVERSAL_ENTITY_ID, VR::UT, id);
    item.put(tags::UNIVERSAL_ENTITY_ID_TYPE, VR::CS, kind);
    object.put_items(tag, [item]);
}

/// An item of a code sequence. A scheme that is no designator of 16 characters cannot be said in DICOM.
pub(super) fn code_item(coded: &Coded) -> Written {
    let mut item = Written::default();
    let tag = if coded.code.len() > 16 { tags::LONG_CODE_VALUE } else { tags::CODE_VALUE };
    let vr = if coded.code.len() > 16 { VR::UC } else { VR::SH };
    let scheme = if coded.system.is_empty() || coded.system.len() > 16 { "99UNKNOWN" } else { &coded.system };
    item.put(tag, vr, Some(&coded.code));
    item.put(tags::CODING_SCHEME_DESIGNATOR, VR::SH, Some(scheme));
    item.put(tags::CODE_MEANING, VR::LO, Some(coded.display.as_deref().unwrap_or(&coded.code)));
    item
}

/// A reference to an instance.
pub(super) fn reference(sop_class: &str, sop_instance: &str) -> Written {
    let mut item = Written::default();
    item.put(tags::REFERENCED_SOP_CLASS_UID, VR::UI, Some(sop_class));
    item.put(tags::REFERENCED_SOP_INSTANCE_UID, VR::UI, Some(sop_instance));
    item
}

/// MADO's coarse regions (CID IHE-MADO1), with the codes that its drafts and DICOM had for the spine.
pub(super) fn region(found: Coded) -> (Coded, bool) {
    const REGIONS: [&str; 10] = [
        "63337009",
        "38266002",
        "53120007",
        "61685007",
        "67734004",
        "774007",
        "113257007",
        "80891009",
        "76752008",
        "1141981001",
    ];
    let superseded = matches!(found.code.as_str(), "737561001" | "421060004");
    let code = if superseded { "1141981001".to_owned() } else { found.code };
    let misplaced = found.system != "SCT" && REGIONS.contains(&code.as_str());
    let system = if misplaced { "SCT".to_owned() } else { found.system };
    (Coded { code, system, display: found.display }, superseded || misplaced)
}

/// A UID out of a digest, under 2.25 (PS3.5 B.2): the same parts, the same UID.
pub(super) fn derived_uid(parts: &[&str]) -> Option<Uid> {
    let digest = openssl::sha::sha256(parts.join("\u{1f}").as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    Uid::parse(&format!("2.25.{}", uuid::Builder::from_custom_bytes(bytes).into_uuid().as_u128())).ok()
}

/// An OID out of a Retrieve Location UID.
pub(super) fn location(value: Option<&str>) -> Option<Oid> {
    value.and_then(|v| Oid::parse(v).ok())
}

/// The base of a Retrieve URL: V7e appends study and series, MADO does not.
pub(super) fn base_url(url: &str, study: &Uid) -> String {
    match url.find(&format!("/studies/{study}")) {
        Some(end) => url[..end].to_owned(),
        None => url.to_owned(),
    }
}
