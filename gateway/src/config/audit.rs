//! `[audit]`: the spool, what happens when it takes nothing, and the repositories that get its records.

use std::path::PathBuf;
use std::time::Duration;

use ncp_audit::{
    Dialect, FEED_BYTES, FhirTarget, ImagingEvent, OnFailure, SYSLOG_BYTES, Site, SpoolLimits, SpoolOptions,
    SyslogTarget,
};
use serde::Deserialize;

use super::InternalTls;

/// `[audit]`
#[derive(Debug, Clone, Deserialize)]
pub struct Audit {
    /// Folder of the spool.
    pub spool_dir: PathBuf,
    /// 32 bytes in hex, mode 0600: encrypts the spool.
    pub spool_key_file: PathBuf,
    /// Bound of the spool, bytes; 16 GiB hold the longest weekend.
    pub spool_bytes: Option<u64>,
    /// Space taken for each segment of the spool when it begins, bytes; 64 MiB by default.
    pub spool_segment_bytes: Option<u64>,
    /// Space held back for the day when the disk is full, bytes; 256 MiB by default.
    pub spool_reserve_bytes: Option<u64>,
    /// A folder on another disk, used when the first takes nothing more.
    pub spool_second_dir: Option<PathBuf>,
    /// Whether emergency access goes on when no disk takes the record.
    #[serde(default)]
    pub on_audit_failure: OnFailure,
    /// Which event a retrieve of images is.
    #[serde(default)]
    pub imaging_event: ImagingEvent,
    /// AuditSourceID.
    pub source: String,
    /// AuditEnterpriseSiteID.
    pub enterprise_site: String,
    /// The Audit Record Repository.
    pub feed: Option<AuditFeed>,
    /// Foreign repositories that take syslog over TLS.
    #[serde(default)]
    pub syslog: Vec<AuditSyslog>,
    /// Foreign repositories that take the FHIR feed.
    #[serde(default)]
    pub fhir: Vec<AuditFhir>,
}

/// `[audit.feed]`
#[derive(Debug, Clone, Deserialize)]
pub struct AuditFeed {
    /// `https://host:port` of `ncp-audit`.
    pub endpoint: String,
    /// Name in its certificate.
    pub server_name: String,
    /// Mutual TLS.
    pub tls: InternalTls,
}

/// `[[audit.syslog]]`
#[derive(Debug, Clone, Deserialize)]
pub struct AuditSyslog {
    /// Of its own among the receivers; where it stands is kept under it.
    pub name: String,
    /// Host.
    pub host: String,
    /// Port, 6514 as a rule.
    pub port: u16,
    /// Name in its certificate.
    pub server_name: String,
    /// What it reads: `ihe` or `ehdsi`.
    pub dialect: Dialect,
    /// A byte order mark before the message; by default as the dialect's receivers expect.
    pub bom: Option<bool>,
    /// Source, epoch and seq as STRUCTURED-DATA.
    #[serde(default)]
    pub structured_data: bool,
    /// It ends connections without `close_notify`, as rsyslog with GnuTLS does. What it did not store is then lost when it
    /// ends a connection because it cannot store.
    #[serde(default)]
    pub ends_without_notify: bool,
    /// Bytes of one frame that it takes; `ncp-audit` takes 1 MiB, which is the default. A longer record is set apart, and a
    /// note goes in its place.
    pub max_record_bytes: Option<usize>,
    /// Mutual TLS.
    pub tls: InternalTls,
}

/// `[[audit.fhir]]`
#[derive(Debug, Clone, Deserialize)]
pub struct AuditFhir {
    /// Of its own among the receivers; where it stands is kept under it.
    pub name: String,
    /// `https://host:port/base`.
    pub base: String,
    /// Bytes of one AuditEvent that it takes; `ncp-audit` takes 16 MiB, which is the default.
    pub max_record_bytes: Option<usize>,
    /// Mutual TLS.
    pub tls: InternalTls,
}

impl Audit {
    /// All paths, to be resolved.
    pub(super) fn paths(&mut self) -> Vec<&mut PathBuf> {
        let mut all = vec![&mut self.spool_dir, &mut self.spool_key_file];
        all.extend(&mut self.spool_second_dir);
        let tls = self.feed.iter_mut().map(|f| &mut f.tls).chain(self.syslog.iter_mut().map(|s| &mut s.tls));
        for tls in tls.chain(self.fhir.iter_mut().map(|f| &mut f.tls)) {
            all.extend(tls.paths());
        }
        all
    }

    /// The spool, written by the node with this name in its certificate.
    pub fn spool_options(&self, node: String) -> SpoolOptions {
        self.spool_of(node, String::new(), String::new())
    }

    /// The same of a gateway that asks under another name and has a community.
    pub fn spool_of(&self, node: String, client: String, home: String) -> SpoolOptions {
        let defaults = SpoolLimits::default();
        SpoolOptions {
            dir: self.spool_dir.clone(),
            key_file: self.spool_key_file.clone(),
            site: Site {
                source: self.source.clone(),
                enterprise_site: self.enterprise_site.clone(),
                node,
                client,
                home,
                ehdsi: self.syslog.iter().any(|s| s.dialect == Dialect::Ehdsi),
                imaging: self.imaging_event,
            },
            limits: SpoolLimits {
                reserve: self.spool_reserve_bytes.unwrap_or(defaults.reserve),
                most: self.spool_bytes.unwrap_or(defaults.most),
                segment: self.spool_segment_bytes.unwrap_or(defaults.segment),
                second: self.spool_second_dir.clone(),
            },
            on_failure: self.on_audit_failure,
        }
    }

    /// Foreign repositories by syslog.
    ///
    /// # Errors
    /// TLS material.
    pub fn syslog_targets(&self) -> Result<Vec<SyslogTarget>, String> {
        let target = |to: &AuditSyslog| {
            let connector = to.tls.connector(b"").map_err(|e| format!("audit.syslog {}: {e}", to.name))?;
            Ok(SyslogTarget {
                name: to.name.clone(),
                address: (to.host.clone(), to.port),
                server_name: to.server_name.clone(),
                connector,
                dialect: to.dialect,
                bom: to.bom.unwrap_or(to.dialect == Dialect::Ehdsi),
                structured_data: to.structured_data,
                hostname: self.source.clone(),
                source: self.source.clone(),
                ends_without_notify: to.ends_without_notify,
                max_record_bytes: to.max_record_bytes.unwrap_or(SYSLOG_BYTES),
            })
        };
        self.syslog.iter().map(target).collect()
    }

    /// Foreign repositories by FHIR feed.
    ///
    /// # Errors
    /// TLS material.
    pub fn fhir_targets(&self) -> Result<Vec<FhirTarget>, String> {
        let target = |to: &AuditFhir| {
            let connector = to.tls.connector(b"\x08http/1.1").map_err(|e| format!("audit.fhir {}: {e}", to.name))?;
            let client = ncp_tls::http_client(connector, None, Duration::from_secs(10));
            let max_record_bytes = to.max_record_bytes.unwrap_or(FEED_BYTES);
            Ok(FhirTarget { name: to.name.clone(), base: to.base.clone(), client, max_record_bytes })
        };
        self.fhir.iter().map(target).collect()
    }
}
