//! The beginning of a gateway's configuration: what those of all tests share.

/// `tests/fixtures/gateway.toml.in`, which `tests/outside.sh` reads too.
const TEMPLATE: &str = include_str!("../fixtures/gateway.toml.in");

/// The values of one gateway.
pub struct Base<'a> {
    /// The two letters of the country code (ISO 3166-1).
    pub country: &'a str,
    /// OID of its community.
    pub home: &'a str,
    /// What people call it.
    pub name: &'a str,
    /// Ports of the peers' listener and of health and metrics.
    pub ports: [u16; 2],
    /// Folder of keys and certificates.
    pub pki: &'a str,
    /// Folder of the spool.
    pub spool: &'a str,
    /// The AuditSourceID of the records that this gateway writes.
    pub source: &'a str,
    /// Folder of policies.
    pub policies: &'a str,
    /// Opt-outs and blocks.
    pub consent: &'a str,
}

impl Base<'_> {
    /// The sections `gateway`, `listener`, `client`, `seal`, `audit` and `policy`.
    pub fn toml(&self) -> String {
        let [peers, admin] = self.ports.map(|port| port.to_string());
        let values = [
            ("@country@", self.country),
            ("@home@", self.home),
            ("@name@", self.name),
            ("@peers@", &peers),
            ("@admin@", &admin),
            ("@pki@", self.pki),
            ("@spool@", self.spool),
            ("@source@", self.source),
            ("@policies@", self.policies),
            ("@consent@", self.consent),
        ];
        values.into_iter().fold(TEMPLATE.to_owned(), |text, (place, value)| text.replace(place, value))
    }
}
