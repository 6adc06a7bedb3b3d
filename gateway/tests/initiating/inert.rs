//! FO-07: no document is shown by a browser in our origin, whatever its media type.

use bytes::Bytes;
use http::header;
use ncp_ihe::{Coded, Content, DocumentRequest, DocumentResponse, RetrieveResponse, Status, actions};
use ncp_tests::cases::Recorded;
use ncp_tests::country::{Asked, Reaction};
use ncp_tests::issuer::BASE;

use crate::clinicians::{documents, knowing, sent};
use crate::{Others, entry, listed};

const COUNTRY: &str = "2.999.101";

fn holds(media_type: &'static str, document: Bytes) -> impl Fn(&Asked) -> Reaction + Send + Sync {
    knowing(COUNTRY, "19800101", move |asked| {
        let mut listed_as = entry(COUNTRY, 1);
        listed_as.mime_type = media_type.into();
        listed_as.format_code = Coded::new("urn:eHDSI:orcd:pdf:2021", "eHDSI formatCodes", None);
        if asked.action != actions::ITI39_REQUEST {
            return listed(vec![listed_as]);
        }
        let request = DocumentRequest {
            home: listed_as.home,
            repository: listed_as.repository_unique_id,
            document: listed_as.unique_id,
        };
        let content = Content::Include("1@country".into());
        let response = DocumentResponse { request, new_document: None, media_type: media_type.into(), content };
        let response = RetrieveResponse { status: Status::Success, errors: Vec::new(), documents: vec![response] };
        let part = ("1@country".to_owned(), media_type, document.clone());
        Reaction::Parts(actions::ITI39_RESPONSE, response.to_element(), vec![part])
    })
}

#[tokio::test]
async fn fo_07_every_document_is_an_attachment_under_a_name_of_ours() {
    let cda = Bytes::from(Recorded::load("foreign/FO-07-cda-with-pdf.xml", Some("text/xml")).body);
    for (media_type, document, accept, name) in [
        ("text/xml", cda.clone(), "application/pdf", "document.pdf"),
        ("text/xml", cda, "text/xml", "document.xml"),
        ("application/pdf", Bytes::from_static(b"%PDF-1.4"), "application/pdf", "document.pdf"),
        ("text/html", Bytes::from_static(b"<script>1</script>"), "text/html", "document.bin"),
        ("image/svg+xml", Bytes::from_static(b"<svg/>"), "image/svg+xml", "document.bin"),
    ] {
        let (world, _countries) =
            Others::none().with("AA", COUNTRY, holds(media_type, document)).await.clinicians().world("").await;
        let bundle = documents(&world, "").await;
        let url = bundle.pointer("/entry/0/resource/content/0/attachment/url").and_then(|url| url.as_str());
        let url = url.unwrap_or_else(|| panic!("{bundle}"));
        let path = if url.starts_with(BASE) { url.to_owned() } else { format!("{BASE}{url}") };
        let (head, _) = sent(&world, &path, ("accept", accept), None).await;
        let field = |name| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        assert_eq!(head.status, 200, "{media_type} as {accept}");
        assert_eq!(field(header::CONTENT_DISPOSITION), format!("attachment; filename=\"{name}\""), "{media_type}");
        assert_eq!(field(header::CONTENT_SECURITY_POLICY), "sandbox");
        assert_eq!(field(header::X_CONTENT_TYPE_OPTIONS), "nosniff");
    }
}
