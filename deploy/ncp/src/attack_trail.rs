//! An audit repository, asked by everybody whom its configuration does not name (SE-08).

use std::path::Path;

use ncp_audit::{Filter, server};
use ncp_tests::attack::Finding;

use crate::ports::{self, Probe};
use crate::{Error, audit};

const REFUSED: &str = "refused";

/// Every certificate of the folder at every port of the trail, for what it is not named for; and a reader who says no reason.
pub(crate) async fn rows(config: &Path, pki: &Path) -> Result<Vec<Finding>, Error> {
    let config = server::load(config).map_err(|problems| problems.join("; "))?;
    let mut rows =
        vec![("T-AUD-10", "search", Probe::Query, config.query), ("T-AUD-11", "feed", Probe::Feed, config.feed)];
    if let Some(address) = config.fhir {
        rows.push(("T-AUD-12", "search by FHIR", Probe::Read, address));
        rows.push(("T-AUD-13", "audit event by FHIR", Probe::Send, address));
    }
    rows.extend(config.syslog.map(|address| ("T-AUD-14", "audit message by syslog", Probe::Syslog, address)));
    let certificates = ports::certificates(pki)?;
    let mut out = Vec::new();
    for (id, input, probe, address) in rows {
        for shown in &certificates {
            let named = match probe {
                Probe::Query | Probe::Read => config.readers.admit(&shown.facts),
                Probe::Feed => config.writers.contains_key(&shown.facts.common_name),
                _ => config.senders.admit(&shown.facts),
            };
            if !named {
                let passes = ports::passes(address, probe, shown, &pki.join("anchors.pem")).await?;
                let got = if passes { "taken" } else { REFUSED };
                out.push(Finding::new(
                    id,
                    &format!("{input} by {}", shown.facts.common_name),
                    &[REFUSED],
                    got.to_owned(),
                ));
            }
        }
    }
    let unreasoned = ncp_audit::search(audit::channel_to(pki, config.query)?, Filter::default()).await;
    let got = if unreasoned.is_ok() { "answered" } else { REFUSED };
    out.push(Finding::new("T-AUD-15", "search by a reader without a reason", &[REFUSED], got.to_owned()));
    Ok(out)
}
