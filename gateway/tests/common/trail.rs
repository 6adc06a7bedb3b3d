//! What a gateway's spool holds.

use std::path::Path;

use ncp_audit::{Message, Object, Site, SpoolContent, SpoolLimits, SpoolOptions};
use ncp_tests::pki::CountryPki;

/// The audit messages so far.
pub(crate) struct Records {
    /// In the strict dialect.
    pub(crate) ihe: Vec<Message>,
    /// In that of OpenNCP, where a receiver takes it.
    pub(crate) ehdsi: Vec<Message>,
}

/// The spool of the gateway whose configuration lies in a folder.
pub(crate) fn content(folder: &Path) -> SpoolContent {
    let limits = SpoolLimits { reserve: 0, ..SpoolLimits::default() };
    let (dir, key) = (folder.join("spool"), folder.join("pki/spool.key"));
    let options = SpoolOptions { limits, ..SpoolOptions::new(dir, key, Site::default()) };
    ncp_audit::read_spool(&options).expect("reads")
}

/// Its audit messages.
pub(crate) fn read(folder: &Path) -> Records {
    let content = content(folder);
    let message = |xml: &str| Message::read(xml.as_bytes()).expect("an audit message");
    Records {
        ihe: content.records.iter().map(|(_, _, xml)| message(xml)).collect(),
        ehdsi: content.ehdsi.iter().map(|xml| message(xml)).collect(),
    }
}

/// A receiver of OpenNCP's dialect that is never there: its messages wait in the spool.
pub(crate) fn ehdsi_receiver(pki: &CountryPki) -> String {
    let path = |name: &str| pki.path(name).display().to_string();
    format!(
        "\n[[audit.syslog]]\nname = \"openatna\"\nhost = \"127.0.0.1\"\nport = 1\nserver_name = \"localhost\"\ndialect = \"ehdsi\"\ntls = {{ certificate = \"{}\", key = \"{}\", anchors = \"{}\" }}\n",
        path("internal-client.pem"),
        path("internal-client.key"),
        path("anchors.pem")
    )
}

/// A detail of any object of a message.
pub(crate) fn detail(message: &Message, name: &str) -> Option<String> {
    let mut all = message.objects.iter().flat_map(|o| &o.details);
    all.find(|(kind, _)| kind == name).map(|(_, value)| String::from_utf8_lossy(value).into_owned())
}

/// Message and header that a message keeps as evidence: `req` or `rsp`.
pub(crate) fn evidence(message: &Message, kind: &str) -> Vec<(String, String)> {
    let header = |object: &Object| {
        let found = object.details.iter().find(|(kind, _)| kind == "securityheader");
        found.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).unwrap_or_default()
    };
    let of = message.objects.iter().filter(|o| o.id_type.code == kind && o.id_type.system == "eHealth DSI Msg");
    of.map(|object| (object.id.clone(), header(object))).collect()
}
