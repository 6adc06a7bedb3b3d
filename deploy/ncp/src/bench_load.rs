//! What the benchmarks of one transaction share: a demonstration that limits nobody, and clients of Finland that ask Norway's
//! gateway for a while.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::header::HeaderValue;
use ncp_tests::neighbour::XCA;
use ncp_tls::{HttpClient, Material};

use crate::Error;
use crate::check::ensure;
use crate::demo::{Demo, offset};

/// Prepares a demonstration without rates: one professional asks about one patient all the time, which no country would let
/// her do.
pub(crate) fn unlimited(dir: &Path, sources: &Path) -> Result<Demo, Error> {
    let demo = Demo::prepare(dir.join("demo"), sources)?;
    let config = demo.dir.join("no/gateway.toml");
    let unbounded = "[rate]\nwindow = \"10m\"\npatient = 0\npoint_of_care = 0\nprofessional = 0\npeer = 0\n";
    std::fs::write(&config, std::fs::read_to_string(&config)? + "\n" + unbounded)?;
    Ok(demo)
}

/// So many clients send messages over kept connections for so many seconds; `answered` looks at each answer. Returns how many
/// were answered and in how many seconds.
pub(crate) async fn load<M>(
    demo: &Demo,
    (clients, seconds): (usize, u64),
    message: impl Fn() -> M + Clone + Send + 'static,
    answered: impl Fn(&[u8]) -> Result<(), Error> + Clone + Send + 'static,
) -> Result<(f64, f64), Error>
where
    M: Future<Output = Result<(HeaderValue, Bytes), Error>> + Send,
{
    let material = Material::load(&demo.fi.path("tls-client.pem"), &demo.fi.path("tls-client.key"))?;
    let connector = material.connector(&[demo.no.path("anchors.pem")], b"\x08http/1.1")?;
    let http: HttpClient<Full<Bytes>> = ncp_tls::http_client(connector, None, Duration::from_secs(10));
    let (began, until) = (Instant::now(), Instant::now() + Duration::from_secs(seconds));
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..clients {
        let (http, message, answered) = (http.clone(), message.clone(), answered.clone());
        running.spawn(async move {
            let mut done = 0u32;
            while Instant::now() < until {
                let (content_type, bytes) = message().await?;
                let request = Request::post(format!("https://localhost:{}{XCA}", offset("no") + 443))
                    .header("content-type", content_type)
                    .body(Full::new(bytes))?;
                let answer = http.request(request).await?;
                ensure(answer.status() == 200, format!("HTTP {}", answer.status()))?;
                let bytes = answer.into_body().collect().await?.to_bytes();
                answered(&bytes)?;
                done += 1;
            }
            Ok::<_, Error>(done)
        });
    }
    let mut done = 0.0;
    while let Some(count) = running.join_next().await {
        done += f64::from(count??);
    }
    Ok((done, began.elapsed().as_secs_f64()))
}
