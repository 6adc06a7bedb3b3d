//! `ncp faults`: what runs in one country is killed, stopped, damaged and refused while another asks; every answer that left
//! must be on the trail in the end.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::bench_load::unlimited;
use crate::demo::{Demo, offset, wait_ready};
use crate::faults_load::Load;
use crate::{Error, faults_replay, faults_stops};

/// More rounds than these are the long form: what stands still or is away does so for longer.
const SHORT: u64 = 10;

pub(crate) async fn run(rounds: u64, sources: &Path) -> Result<bool, Error> {
    let dir = tempfile::tempdir()?;
    // One professional asks about one patient, more often than is usual.
    let mut demo = unlimited(dir.path(), sources)?;
    demo.start().await?;
    let long = rounds > SHORT;
    let good = [
        killed(&mut demo, rounds).await?,
        faults_stops::stopped(&demo, long).await?,
        faults_stops::restarted_and_away(&mut demo, long).await?,
        faults_replay::second_process(&demo).await?,
        faults_replay::torn(&mut demo).await?,
        faults_replay::full(&mut demo).await?,
        faults_replay::redis(&mut demo, long).await?,
    ];
    demo.stop().await?;
    Ok(good.iter().all(|good| *good))
}

/// Gateway and repository are killed at all sorts of points.
async fn killed(demo: &mut Demo, rounds: u64) -> Result<bool, Error> {
    let load = Load::start(demo).await?;
    for round in 0..rounds {
        tokio::time::sleep(Duration::from_millis(50 + round * 37 % 250)).await;
        again(demo, "ncp-gateway").await?;
        tokio::time::sleep(Duration::from_millis(round * 53 % 150)).await;
        again(demo, "ncp-audit").await?;
    }
    load.end(demo, "gateway and repository killed under load", json!({ "rounds": rounds })).await
}

/// Kills a program of Norway's and starts it again.
pub(crate) async fn again(demo: &mut Demo, program: &str) -> Result<(), Error> {
    demo.kill(&format!("no/{program}")).await?;
    started(demo, program).await
}

/// Starts a program of Norway's and waits until it is ready.
pub(crate) async fn started(demo: &mut Demo, program: &str) -> Result<(), Error> {
    demo.start_one("no", program)?;
    wait_ready(offset("no") + if program == "ncp-audit" { 450 } else { 445 }).await
}
