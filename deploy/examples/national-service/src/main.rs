//! `ncp-example-national-service ADDRESS CERTIFICATE KEY ANCHORS FOLDER`: the example with one person and a folder.
#![allow(clippy::print_stderr)]

use std::process::ExitCode;
use std::sync::Arc;

use ncp_example_national_service::{Holdings, Service, scan, serve};
use ncp_proto::national as pb;
use ncp_tls::TlsFiles;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, certificate, key, anchors, folder] = arguments.as_slice() else {
        eprintln!("usage: ncp-example-national-service ADDRESS CERTIFICATE KEY ANCHORS FOLDER");
        return ExitCode::from(64);
    };
    match run(address, [certificate, key, anchors], folder).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(address: &str, tls: [&String; 3], folder: &str) -> Result<(), Box<dyn std::error::Error>> {
    let [cert_chain, key, anchors] = tls.map(Into::into);
    let acceptor = TlsFiles { cert_chain, key, anchors, crls: None }.mutual_acceptor(b"\x02h2")?;
    let id = pb::PatientId { id: "30857710106".into(), authority: "2.16.578.1.12.4.1.4.1".into() };
    let patient = pb::Patient {
        id: Some(id),
        family: "Testesen".into(),
        given: vec!["Jon".into()],
        birth_date: "19770530".into(),
        gender: "M".into(),
        ..pb::Patient::default()
    };
    let holdings = Holdings {
        patient,
        local_ids: vec!["UV59569735".into()],
        documents: Vec::new(),
        files: scan(folder.as_ref()),
        consent: pb::GetConsentResponse { state: pb::get_consent_response::State::Given.into(), blocked: Vec::new() },
    };
    let listener = tokio::net::TcpListener::bind(address).await?;
    Ok(serve(Service(Arc::new(holdings)), listener, acceptor).await?)
}
