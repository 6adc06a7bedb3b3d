//! `/livez`, `/readyz` and `/metrics` on the admin listener.
//!
//! Not ready is a gateway that would turn every exchange away: its spool takes no record, its own keys are out of date, no
//! country's CRLs are believed, or the shared replay memory is gone and the configuration says to refuse then. A
//! country, a national system, the terminology service and the audit repositories are no part of it: a load balancer could
//! only make such a failure everybody's.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;

use jiff::Timestamp;
use ncp_audit::{OnFailure, SpoolLevel};

use crate::app::App;

/// The admin routes. They hold no personal data and take no input.
pub fn routes(app: Arc<App>) -> Router {
    Router::new()
        .route("/livez", get(|| async { "live\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(app)
}

async fn ready(State(app): State<Arc<App>>) -> impl IntoResponse {
    match reasons(&app).await {
        reasons if reasons.is_empty() => (StatusCode::OK, "ready\n".to_owned()),
        reasons => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", reasons.join("; "))),
    }
}

/// Why no exchange should be sent here.
pub async fn reasons(app: &App) -> Vec<&'static str> {
    let mut out = Vec::new();
    if !app.drain.is_ready() {
        out.push("it starts or stops");
    }
    // Where emergencies are served without a record, they are served here.
    let refuses = app.config.audit.on_audit_failure == OnFailure::DenyExport;
    if refuses && app.audit.status().level == SpoolLevel::Full {
        out.push("the audit spool takes no record");
    }
    out.extend(app.snapshot.load().unusable(Timestamp::now()));
    if !app.replay.is_there().await {
        out.push("the shared replay memory is not reachable");
    }
    out
}

async fn metrics(State(app): State<Arc<App>>) -> impl IntoResponse {
    let snapshot = app.snapshot.load();
    app.metrics.certificates(snapshot.certificates.iter().map(|c| (c.name.as_str(), &c.certificate)));
    let decisions = snapshot.policy.engine().decisions();
    app.metrics.decisions.set(i64::try_from(decisions).unwrap_or(i64::MAX));
    app.metrics.consent(snapshot.policy.consent().file());
    app.metrics.audit(&app.audit);
    app.metrics.connections(ncp_tls::GaveWay::so_far());
    app.metrics.replay(app.replay.fill());
    app.metrics.services(&app.services.load());
    let text = app.metrics.render();
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
}
