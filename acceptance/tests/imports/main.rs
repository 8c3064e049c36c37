//! The import of contacts as a whole, with everything that can happen to it on the way; longer by `make import-torture` and
//! `make import-storm`.

mod traces;
mod uploads;

use std::time::Duration;

use acceptance::{ImportTorture, import_storm, import_torture};
use anyhow::Result;
use devstack::{Endpoints, Part};
use tokio::sync::Mutex;

/// Until what must come has come; far beyond what it takes.
const DEADLINE: Duration = Duration::from_secs(120);
/// Each of these wants the machine for itself: two at once would take as long, and more memory.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

fn servers() -> Result<Endpoints> {
    devstack::shared(&[Part::Kafka, Part::Postgres])
}

#[tokio::test(flavor = "multi_thread")]
async fn services_are_killed_in_turn_and_contacts_errors_and_frames_are_the_models() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    import_torture(&servers()?, ImportTorture { seed: rand::random(), rows: 60_000, kills: 8 }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_that_comes_back_at_once_and_bad_guests_keep_nobody_from_their_frames() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    import_storm(&servers()?, 300).await
}
