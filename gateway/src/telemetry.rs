//! Names of spans, attributes and metrics, in one place; never personal data.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use ncp_audit::{AuditSink, SpoolLevel};
use ncp_tls::{Country, GaveWay};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::trace::SdkTracerProvider;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::Telemetry;
use crate::identity::TransactionName;

/// Sets up log lines (JSON on stderr) and, where configured, OTLP traces.
///
/// # Errors
/// A filter that does not parse or an exporter that cannot be built, in words for the operator.
pub fn start(config: &Telemetry, service: &str) -> Result<Option<SdkTracerProvider>, String> {
    let filter = EnvFilter::try_new(&config.log).map_err(|error| format!("telemetry.log: {error}"))?;
    let lines = tracing_subscriber::fmt::layer().json().with_writer(std::io::stderr).with_target(true);
    let provider = match &config.otlp_endpoint {
        None => None,
        Some(endpoint) => {
            let exporter = opentelemetry_otlp::SpanExporter::builder()
                .with_tonic()
                .with_endpoint(endpoint)
                .build()
                .map_err(|error| format!("telemetry.otlp_endpoint: {error}"))?;
            let resource = opentelemetry_sdk::Resource::builder().with_service_name(service.to_owned()).build();
            Some(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
        }
    };
    let traces = provider.as_ref().map(|p| tracing_opentelemetry::layer().with_tracer(p.tracer("ncp-gateway")));
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .with(traces)
        .try_init()
        .map_err(|error| format!("telemetry: {error}"))?;
    Ok(provider)
}

/// Labels of an exchange: transaction, role, country of the peer, outcome class. No ids.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ExchangeLabels {
    /// `ITI-55` and so on.
    pub transaction: String,
    /// `responding` or `initiating`.
    pub role: String,
    /// Two letters, or `-` before the peer is known.
    pub country: String,
    /// `success`, `refused` or `failed`.
    pub outcome: String,
}

/// Labels of bytes on their way.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StreamLabels {
    /// `responding` or `initiating`.
    pub role: String,
    /// Two letters.
    pub country: String,
}

/// Labels of calls to a country.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PeerLabels {
    /// Two letters.
    pub country: String,
    /// `ITI-55` and so on.
    pub transaction: String,
}

/// Labels of calls that were shed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ListenerLabels {
    listener: &'static str,
}

/// Labels of connections that ended for the sake of others.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConnectionLabels {
    /// `half-open`, `unknown` or `refused`.
    state: &'static str,
}

/// Labels of calls that were not made.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RefusedLabels {
    /// Two letters.
    pub country: String,
    /// `ITI-55` and so on.
    pub transaction: String,
    /// `circuit` or `bulkhead`.
    pub reason: String,
}

/// Labels of units that a national system did not bring.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct LeftOutLabels {
    /// The connector's name in the configuration.
    pub connector: String,
    /// Why, as a word.
    pub reason: String,
}

/// Labels of what countries report beside or in place of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReportLabels {
    /// Two letters.
    pub country: String,
    /// `ITI-55` and so on.
    pub transaction: String,
    /// The code, `other` for one that no specification lists: a country makes up no time series.
    pub code: String,
    /// `error` or `warning`.
    pub severity: String,
}

/// Labels of a national system.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ConnectorLabels {
    /// The connector's name in the configuration.
    pub connector: String,
}

/// Which repository gets audit records.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReceiverLabels {
    /// `feed`, or kind and name of a foreign repository.
    pub receiver: String,
}

/// Which certificate.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CertificateLabels {
    /// Configuration key.
    pub name: String,
}

/// Labels of service metadata.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ServiceLabels {
    /// Two letters.
    pub country: String,
    /// `xcpd`, `xca`, `xcai`.
    pub service: String,
}

/// The instruments.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    exchanges: Family<ExchangeLabels, Counter>,
    seconds: Family<ExchangeLabels, Histogram, fn() -> Histogram>,
    bytes: Family<StreamLabels, Counter>,
    circuits: Family<PeerLabels, Gauge>,
    calls_refused: Family<RefusedLabels, Counter>,
    shed: Family<ListenerLabels, Counter>,
    gave_way: Family<ConnectionLabels, Counter>,
    left_out: Family<LeftOutLabels, Counter>,
    peer_reports: Family<ReportLabels, Counter>,
    connector_circuits: Family<ConnectorLabels, Gauge>,
    certificate_ends: Family<CertificateLabels, Gauge>,
    audit: AuditMetrics,
    replay_entries: Gauge,
    replay_share: Gauge,
    smp_ages: Family<ServiceLabels, Gauge>,
    /// Service metadata that were not taken.
    pub smp_failures: Counter,
    consent_age: Gauge,
    consent_wrong_rows: Gauge,
    /// Decisions of the policies in force.
    pub decisions: Gauge,
    /// Exchanges carried now.
    pub open: Gauge,
    /// Snapshots swapped in.
    pub reloads: Counter,
    /// Reloads that left the former snapshot in place.
    pub reload_failures: Counter,
}

/// The audit spool and its way to repositories.
#[derive(Clone, Default)]
struct AuditMetrics {
    level: Gauge,
    bytes: Gauge,
    records: Gauge,
    given_up: Gauge,
    waiting: Family<ReceiverLabels, Gauge>,
    oldest: Family<ReceiverLabels, Gauge>,
    apart: Family<ReceiverLabels, Gauge>,
}

impl AuditMetrics {
    fn register(&self, registry: &mut Registry) {
        let levels = "what is not acknowledged: 0 room, 1 at 70 %, 2 at 90 %, 3 reserve in use, 4 second folder in use, 5 nothing is taken";
        registry.register("audit_spool_level", levels, self.level.clone());
        registry.register_with_unit("audit_spool", "space that the spool takes", Unit::Bytes, self.bytes.clone());
        registry.register("audit_spool_records", "records since the start", self.records.clone());
        let given_up = "acknowledged segments that were removed before seven days, since the start: space was short";
        registry.register("audit_spool_given_up_segments", given_up, self.given_up.clone());
        let waiting = "records that a repository has not acknowledged";
        registry.register("audit_waiting_records", waiting, self.waiting.clone());
        let oldest = "age of the oldest record that a repository has not acknowledged";
        registry.register_with_unit("audit_oldest_waiting", oldest, Unit::Seconds, self.oldest.clone());
        let apart = "records that a repository does not take and that were set apart";
        registry.register("audit_set_apart_records", apart, self.apart.clone());
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("ncp");
        let exchanges = Family::default();
        let seconds: Family<ExchangeLabels, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.001, 2.0, 16)));
        let bytes = Family::default();
        let circuits = Family::default();
        let calls_refused = Family::default();
        let shed = Family::default();
        let help = "calls that were told to come again, since all permits or all of their caller were taken";
        registry.register("calls_shed", help, shed.clone());
        let gave_way = Family::default();
        let help = "connections that ended for the sake of others: half-open, of no authenticated caller, or new ones";
        registry.register("connections_gave_way", help, gave_way.clone());
        let left_out = Family::default();
        let connector_circuits = Family::default();
        let help = "calls to a national system: 0 made, 1 probed, 2 not made";
        registry.register("connector_circuit", help, connector_circuits.clone());
        let help = "studies, documents and instances of a national system that are not in an answer, by reason";
        registry.register("connector_left_out", help, left_out.clone());
        let peer_reports = Family::default();
        let (open, decisions) = (Gauge::default(), Gauge::default());
        registry.register(
            "policy_decisions",
            "decisions of the policies in force since they were loaded",
            decisions.clone(),
        );
        let certificate_ends = Family::default();
        let help = "end of the certificate, seconds since 1970";
        registry.register("certificate_not_after_timestamp", help, certificate_ends.clone());
        let audit = AuditMetrics::default();
        audit.register(&mut registry);
        let (replay_entries, replay_share) = (Gauge::default(), Gauge::default());
        registry.register("replay_entries", "assertions and messages that are remembered", replay_entries.clone());
        let help = "of its share of the replay memory, what the peer with the most entries holds";
        registry.register("replay_share_percent", help, replay_share.clone());
        let (smp_ages, smp_failures) = (Family::default(), Counter::default());
        registry.register_with_unit("smp_age", "since the SMP last said so", Unit::Seconds, smp_ages.clone());
        registry.register("smp_failures", "service metadata that were not taken", smp_failures.clone());
        let (consent_age, consent_wrong_rows) = (Gauge::default(), Gauge::default());
        let help = "since the consent file was seen to be what is in force";
        registry.register_with_unit("consent_age", help, Unit::Seconds, consent_age.clone());
        registry.register(
            "consent_wrong_rows",
            "rows of the consent file that cannot be read",
            consent_wrong_rows.clone(),
        );
        let (reloads, reload_failures) = (Counter::default(), Counter::default());
        registry.register("reloads", "snapshots swapped in", reloads.clone());
        registry.register("reload_failures", "reloads that left the former state", reload_failures.clone());
        registry.register("exchanges", "exchanges by transaction, role, country and outcome", exchanges.clone());
        registry.register_with_unit("exchange_duration", "from request to last byte", Unit::Seconds, seconds.clone());
        registry.register_with_unit("instance_content", "DICOM content carried", Unit::Bytes, bytes.clone());
        registry.register("peer_circuit", "calls to a country: 0 made, 1 probed, 2 not made", circuits.clone());
        registry.register("peer_calls_refused", "calls to a country that were not made", calls_refused.clone());
        registry.register("peer_reports", "errors and warnings that countries reported", peer_reports.clone());
        registry.register("open_exchanges", "exchanges carried now", open.clone());
        Self {
            registry: Arc::new(registry),
            exchanges,
            seconds,
            bytes,
            circuits,
            calls_refused,
            shed,
            gave_way,
            left_out,
            peer_reports,
            connector_circuits,
            certificate_ends,
            audit,
            replay_entries,
            replay_share,
            smp_ages,
            smp_failures,
            consent_age,
            consent_wrong_rows,
            decisions,
            open,
            reloads,
            reload_failures,
        }
    }
}

impl Metrics {
    /// Sets the ends of the certificates, by configuration key; of several under one key, the first to end.
    pub fn certificates<'a>(&self, certificates: impl Iterator<Item = (&'a str, &'a openssl::x509::X509)>) {
        self.certificate_ends.clear();
        for (name, certificate) in certificates {
            let span = openssl::asn1::Asn1Time::from_unix(0).and_then(|epoch| epoch.diff(certificate.not_after()));
            let Ok(span) = span else { continue };
            let end = i64::from(span.days) * 86_400 + i64::from(span.secs);
            let gauge = self.certificate_ends.get_or_create(&CertificateLabels { name: name.to_owned() });
            if gauge.get() == 0 || end < gauge.get() {
                gauge.set(end);
            }
        }
    }

    /// Reads how the audit spool is and how far each repository is.
    pub fn audit(&self, sink: &AuditSink) {
        let status = sink.status();
        let level = match status.level {
            SpoolLevel::Free => 0,
            SpoolLevel::Warning => 1,
            SpoolLevel::Critical => 2,
            SpoolLevel::Reserve => 3,
            SpoolLevel::Second => 4,
            SpoolLevel::Full => 5,
        };
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        self.audit.level.set(level);
        self.audit.bytes.set(number(sink.used()));
        self.audit.records.set(number(status.last_seq));
        self.audit.given_up.set(number(status.given_up));
        let now = Timestamp::now();
        for delivery in sink.deliveries() {
            let age = delivery.oldest.map_or(0, |oldest| now.duration_since(oldest).as_secs().max(0));
            let labels = ReceiverLabels { receiver: delivery.receiver };
            self.audit.waiting.get_or_create(&labels).set(number(delivery.waiting));
            self.audit.oldest.get_or_create(&labels).set(age);
            self.audit.apart.get_or_create(&labels).set(number(delivery.apart));
        }
    }

    /// Sets how full the replay memory of this process is.
    pub fn replay(&self, fill: crate::responding::replay::Fill) {
        self.replay_entries.set(i64::try_from(fill.entries).unwrap_or(i64::MAX));
        self.replay_share.set(i64::try_from(fill.share).unwrap_or(i64::MAX));
    }

    /// Sets the age of the consent file and how many of its rows are wrong.
    pub fn consent(&self, file: &crate::policy::consent::KeptFile) {
        self.consent_age.set(i64::try_from(file.age().as_secs()).unwrap_or(i64::MAX));
        self.consent_wrong_rows.set(i64::try_from(file.wrong_rows().len()).unwrap_or(i64::MAX));
    }

    /// Sets the ages of service metadata.
    pub fn services(&self, services: &crate::smp::Services) {
        self.smp_ages.clear();
        for ((country, service), known) in services {
            let labels = ServiceLabels { country: country.to_string(), service: service.as_str().to_owned() };
            self.smp_ages.get_or_create(&labels).set(i64::try_from(known.age().as_secs()).unwrap_or(i64::MAX));
        }
    }

    /// Counts an exchange that ended.
    pub fn exchange(&self, labels: ExchangeLabels, took: Duration) {
        self.exchanges.get_or_create(&labels).inc();
        self.seconds.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// Counts DICOM bytes.
    pub fn instance_bytes(&self, labels: StreamLabels, bytes: u64) {
        self.bytes.get_or_create(&labels).inc_by(bytes);
    }

    /// State of a country's circuit: 0 closed, 1 half open, 2 open.
    pub fn circuit(&self, labels: PeerLabels, state: i64) {
        self.circuits.get_or_create(&labels).set(state);
    }

    /// Counts a call that was not made.
    pub fn call_refused(&self, labels: PeerLabels, reason: &str) {
        let PeerLabels { country, transaction } = labels;
        let labels = RefusedLabels { country, transaction, reason: reason.to_owned() };
        self.calls_refused.get_or_create(&labels).inc();
    }

    /// Counts a call that a listener told to come again.
    pub fn shed(&self, listener: &'static str) {
        self.shed.get_or_create(&ListenerLabels { listener }).inc();
    }

    /// Sets how many connections ended for the sake of others.
    pub fn connections(&self, GaveWay { half_open, unknown, refused }: GaveWay) {
        for (state, count) in [("half-open", half_open), ("unknown", unknown), ("refused", refused)] {
            let counter = self.gave_way.get_or_create(&ConnectionLabels { state });
            counter.inner().store(count, std::sync::atomic::Ordering::Relaxed);
        }
    }

    /// State of a national system's circuit: 0 closed, 1 half open, 2 open.
    pub fn connector_circuit(&self, connector: &str, state: i64) {
        self.connector_circuits.get_or_create(&ConnectorLabels { connector: connector.to_owned() }).set(state);
    }

    /// Counts what a national system did not bring.
    pub fn left_out(&self, connector: &str, reason: &str, units: usize) {
        let labels = LeftOutLabels { connector: connector.to_owned(), reason: reason.to_owned() };
        self.left_out.get_or_create(&labels).inc_by(units as u64);
    }

    /// Counts an error or a warning that a country reported, by the series of its code.
    pub fn peer_report(&self, country: Country, transaction: TransactionName, code: &'static str, severity: &str) {
        let labels = ReportLabels {
            country: country.to_string(),
            transaction: transaction.as_str().to_owned(),
            code: code.to_owned(),
            severity: severity.to_owned(),
        };
        self.peer_reports.get_or_create(&labels).inc();
    }

    /// OpenMetrics text.
    pub fn render(&self) -> String {
        let mut out = String::new();
        // Writing to a string does not fail.
        let _ = text::encode(&mut out, &self.registry);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_that_gave_way_are_counted() {
        let metrics = Metrics::default();
        metrics.connections(GaveWay { half_open: 3, unknown: 4, refused: 5 });
        let text = metrics.render();
        for (state, count) in [("half-open", 3), ("unknown", 4), ("refused", 5)] {
            let line = format!("ncp_connections_gave_way_total{{state=\"{state}\"}} {count}\n");
            assert!(text.contains(&line), "{text}");
        }
    }
}
