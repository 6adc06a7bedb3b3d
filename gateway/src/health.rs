//! `/livez`, `/readyz` and `/metrics` on the admin listener.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;

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
    if app.drain.is_ready() { (StatusCode::OK, "ready\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready\n") }
}

async fn metrics(State(app): State<Arc<App>>) -> impl IntoResponse {
    let snapshot = app.snapshot.load();
    app.metrics.certificates(snapshot.certificates.iter().map(|c| (c.name.as_str(), &c.certificate)));
    let decisions = snapshot.policy.engine().decisions();
    app.metrics.decisions.set(i64::try_from(decisions).unwrap_or(i64::MAX));
    app.metrics.consent(snapshot.policy.consent().file());
    app.metrics.audit(&app.audit);
    app.metrics.replay(app.replay.fill());
    app.metrics.services(&app.services.load());
    let text = app.metrics.render();
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
}
